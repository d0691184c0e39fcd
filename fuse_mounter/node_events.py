# SPDX-License-Identifier: Apache-2.0
"""What a transition of a mount is as a Kubernetes Event of its node. Pure."""

from __future__ import annotations

from agents.pod_event import PodEvent
from fuse_mounter.standing import Transition
from fuse_mounter.states import State

_REASONS = {
    State.PUBLISHED: "MountPublished",
    State.DEGRADED: "MountDegraded",
    State.HUNG: "MountHung",
    State.DEAD: "MountDead",
    State.DRAINING: "MountDraining",
    State.FAILED: "MountFailed",
    State.ABSENT: "MountAbsent",
    State.STARTING: "MountStarting",
}
#: What is under way is no news to those who read Events.
_QUIET = frozenset({State.STARTING})
_NORMAL = frozenset({State.PUBLISHED, State.DRAINING, State.ABSENT})


def event_of(transition: Transition, node: str, wall: float) -> PodEvent | None:
    """`wall` in seconds of the epoch. None: nobody has to be told."""
    after = transition.after
    if after in _QUIET:
        return None
    cause = f": {transition.cause}" if transition.cause else ""
    message = f"mount {transition.name}: {transition.before.value} -> {after.value}{cause}"
    normal = after in _NORMAL
    return PodEvent.of_node(node, transition.name, _REASONS[after], message, wall, normal=normal)
