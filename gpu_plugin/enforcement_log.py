# SPDX-License-Identifier: Apache-2.0
"""Log lines of enforcement: one for each container and step, however many processes it concerns.
Decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agents.logs import Logger
from gpu_plugin.accounting import Accounting, ContainerKey, GpuContainer
from gpu_plugin.verdicts import Act, Action, Outcome, Reason

_EVENTS = {
    Action.WARN: "container warned",
    Action.TERMINATE: "processes asked to end",
    Action.KILL: "processes killed",
    Action.SPARE: "container spared",
}
#: Of a crowd of processes the first are named, and the others counted.
_NAMED = 8

_Step = tuple[ContainerKey, str, Action, Reason, Outcome, str | None]


class EnforcementLog:
    """What was done at INFO, since it is the node's daily business; what could not be, at WARNING,
    once for as long as it stays so.
    """

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._refused: set[tuple[ContainerKey, str | None]] = set()
        self._was_late = False

    def acted(self, accounting: Accounting, acts: Sequence[Act]) -> None:
        if not acts:
            return
        containers = {container.key: container for container in accounting.containers}
        self._refused = {one for one in self._refused if one[0] in containers}
        steps: dict[_Step, list[Act]] = {}
        for act in acts:
            step = (
                act.container,
                act.device,
                act.action,
                act.reason,
                act.outcome,
                act.explanation,
            )
            steps.setdefault(step, []).append(act)
        for of_step in steps.values():
            self._say(of_step, containers.get(of_step[0].container))

    def _say(self, acts: Sequence[Act], container: GpuContainer | None) -> None:
        act = acts[0]
        say = self._log.info
        if act.outcome is Outcome.REFUSED:
            known = (act.container, act.explanation)
            if known in self._refused:
                return
            self._refused.add(known)
            say = self._log.warning
        say(
            _EVENTS[act.action],
            device_id=act.device,
            pod_uid=act.container.pod_uid,
            **_names(act, container),
            reason=act.reason.value,
            outcome=act.outcome.value,
            used=act.used,
            allowed=act.allowed,
            **_processes(acts),
            **({} if act.explanation is None else {"error": act.explanation}),
        )

    def late(self, acts: Sequence[Act]) -> None:
        """Once, for as long as there are some in every round."""
        if acts and not self._was_late:
            self._log.warning(
                "processes not ended in time",
                count=len(acts),
                hint="procfs, or the kubelet's directory, is slow; it is tried again",
            )
        self._was_late = bool(acts)

    def last_word_failed(self, act: Act, error: Exception) -> None:
        self._log.warning("no termination message written", device_id=act.device, error=repr(error))

    def standing_by(self, *, before: str | None, now: str | None) -> None:
        """Whether another agent enforces, when that changes."""
        if before is None and now is not None:
            self._log.info("memory limits are not enforced by this agent", reason=now)
        elif before is not None and now is None:
            self._log.info("memory limits are enforced by this agent now")

    def can_end(self, *, before: str | None, now: str | None) -> None:
        if before is None and now is not None:
            self._log.warning("processes of containers cannot be ended", error=now)
        elif before is not None and now is None:
            self._log.info("processes of containers can be ended now")


def _names(act: Act, container: GpuContainer | None) -> dict[str, str]:
    if container is None or container.names is None:
        return {"container": act.container.container_id}
    names = container.names
    return {"pod": f"{names.namespace}/{names.pod}", "container": names.container}


def _processes(acts: Iterable[Act]) -> dict[str, object]:
    found = [act.process.pid for act in acts if act.process is not None]
    if not found:
        return {}
    shown: dict[str, object] = {"pid": found if len(found) > 1 else found[0]}
    if len(found) > _NAMED:
        shown = {"pid": found[:_NAMED], "count": len(found)}
    return shown
