# SPDX-License-Identifier: Apache-2.0
"""How a refusal of ours looks in the status of a pod, and how such a pod is recognised. Pure.

The kubelet wraps the plugin's words into its own (measured with 1.34); the tests compare them with
the embedded one's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from agents.errors import AgentError
from gpu_plugin.placement import Refused

#: `status.reason` of a pod that the kubelet rejected while it looked for devices.
REASON = "UnexpectedAdmissionError"
#: gRPC status of a refusal, as Go writes it.
CODE = "FailedPrecondition"


def description(resource: str, error: AgentError) -> str:
    """What the kubelet is told. It names the resource: by that, such pods are found again."""
    text = str(error)
    return text if named_resource(text, [resource]) else f"{resource}: {text}"


def when_preferring(resource: str, error: Refused) -> str:
    """The pod's message when GetPreferredAllocation refused."""
    call = _call_error(resource, error)
    return _pod_message(f"device plugin GetPreferredAllocation rpc failed with err: {call}")


def when_allocating(resource: str, error: Refused) -> str:
    """The pod's message when Allocate refused."""
    return _pod_message(_call_error(resource, error))


def when_short(resource: str, asked: int, available: int) -> str:
    """The pod's message when the kubelet has fewer free units than the scheduler thinks."""
    return _pod_message(
        f"requested number of devices unavailable for {resource}. "
        f"Requested: {asked}, Available: {available}"
    )


def unschedulable(lacking: Iterable[str]) -> str:
    """The scheduler's words for a pod that this node (were it the only one) has no room for."""
    what = ", ".join(f"1 Insufficient {name}" for name in lacking)
    return f"0/1 nodes are available: {what}."


def named_resource(message: str, resources: Iterable[str]) -> str | None:
    """Which of the resources the message of a rejected pod names, as a whole word (or None)."""
    for name in resources:
        if re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w/-]|\.\w)", message):
            return name
    return None


def _call_error(resource: str, error: Refused) -> str:
    return f"rpc error: code = {CODE} desc = {description(resource, error)}"


def _pod_message(text: str) -> str:
    return f"Pod was rejected: Allocate failed due to {text}, which is unexpected"
