# SPDX-License-Identifier: Apache-2.0
"""A pod that the kubelet did not take, in words for whoever wanted it. Pure; knows no hub.

The scheduler sees a sum over devices, so a pod may be bound where no single device has room. The
kubelet then rejects it for good: it never starts, and nobody needs to wait for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: What is wrong, as gRPC (if a plugin says it) and the kubelet wrap it.
_WRAPPED = re.compile(
    r"(?:.*\bdesc = |.*\bAllocate failed due to )?(?P<words>.+?)(?:, which is unexpected)?\s*",
    re.DOTALL,
)
#: No device has so much: a plugin's words, and the kubelet's own.
_SHORT = ("largest free block", "devices unavailable")
_LONGEST = 500


def told(pod: Mapping[str, Any]) -> str | None:
    """What to say of this pod, as the API has it; None: it was not rejected."""
    status = pod.get("status") or {}
    reason = str(status.get("reason") or "")
    if status.get("phase") != "Failed" or not _by_kubelet(reason):
        return None
    message = str(status.get("message") or reason)
    words = match["words"] if (match := _WRAPPED.fullmatch(message)) else message
    if any(one in words for one in _SHORT):
        return (
            "there is not so much free in one piece where your server was placed "
            f"({words[:_LONGEST]}). Choose less, or try again later"
        )
    return f"the machine did not take your server: {words[:_LONGEST]}. Try again, or choose another"


def taken(pod: Mapping[str, Any]) -> bool:
    """Whether the kubelet has begun with it."""
    status = pod.get("status") or {}
    begun = status.get("containerStatuses") or status.get("initContainerStatuses")
    return bool(begun) or status.get("phase") in ("Running", "Succeeded")


def _by_kubelet(reason: str) -> bool:
    """At admission: of devices, or since somebody else took what the scheduler saw."""
    return reason == "UnexpectedAdmissionError" or reason.startswith("OutOf")
