# SPDX-License-Identifier: Apache-2.0
"""What is said of an act outside the container: in a Kubernetes Event about its pod, and in its
termination message. Pure.
"""

from __future__ import annotations

from agents.pod_event import PodEvent
from agents.tables import size
from gpu_plugin.accounting import GpuContainer
from gpu_plugin.container_events import safe, time_text
from gpu_plugin.verdicts import Act, Action, Outcome, Reason

_REASONS = {
    Reason.OVER_LIMIT: "GpuMemoryOverLimit",
    Reason.PRESSURE: "GpuMemoryPressure",
    Reason.UNINVITED: "GpuMemoryUninvited",
}
_STEPS = {Action.WARN: "Warning", Action.TERMINATE: "Ended", Action.KILL: "Ended"}


def pod_event(act: Act, container: GpuContainer | None, device: str) -> PodEvent | None:
    """None: nothing was done, or it is not known whose pod it is. `device` is its name for
    people.
    """
    if act.outcome is not Outcome.DONE or act.action not in _STEPS:
        return None
    if container is None or container.names is None or container.key.pod_uid is None:
        return None
    names = container.names
    return PodEvent(
        names.namespace,
        names.pod,
        container.key.pod_uid,
        names.container,
        f"{_REASONS[act.reason]}{_STEPS[act.action]}",
        f"{_why(act, device, f'container {safe(names.container, 63)}')}: {_done(act)}",
        act.wall,
    )


#: How a termination message of ours begins.
LAST_WORDS = "nodeshare ended this container at "


def termination_message(act: Act, device: str) -> str:
    """For a container whose first process is ended now."""
    return f"{LAST_WORDS}{time_text(act.wall)}: {_why(act, device, 'it')}.\n"


def _why(act: Act, device: str, who: str) -> str:
    used = f"{who} used {size(act.used)} of GPU memory on {device}"
    match act.reason:
        case Reason.OVER_LIMIT:
            return f"{used}, and its limit is {size(act.allowed)}"
        case Reason.PRESSURE:
            return (
                f"{used}, its share is {size(act.allowed)}, and other containers needed what they "
                "were given"
            )
        case Reason.UNINVITED:
            return f"{used}, and it was given none of it"


def _done(act: Act) -> str:
    program = safe(act.command, 40) or "a process"
    match act.action:
        case Action.WARN:
            return f"processes will be ended in {act.grace_s:g} s"
        case Action.TERMINATE:
            return f"asked {program} to end"
        case Action.KILL | Action.SPARE:
            return f"ended {program}"
