# SPDX-License-Identifier: Apache-2.0
"""The state of a mount, as people and metrics see it, from what is there. Pure."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from fuse_mounter.observed import Health, Instance, Layer, Stack
from fuse_mounter.plan import Want, current


class State(enum.Enum):
    """Of a mount."""

    ABSENT = "absent"  # nothing is there and nothing is under way yet
    STARTING = "starting"  # its first client is on its way
    PUBLISHED = "published"  # pods see it, and it answers
    DEGRADED = "degraded"  # pods see it, something is wrong with it
    HUNG = "hung"  # it does not answer
    DEAD = "dead"  # nobody serves what pods see; a new client is on its way
    DRAINING = "draining"  # no longer wanted, and not gone yet
    FAILED = "failed"  # it cannot be mounted; the cause says what to do


class Cause(enum.Enum):
    """Why a mount had to be recovered."""

    CLIENT_ENDED = "client_ended"
    CONNECTION_ABORTED = "connection_aborted"
    HUNG = "hung"
    UNMOUNTED = "unmounted"  # somebody took it away


#: Pods can use it.
USABLE = frozenset({State.PUBLISHED, State.DEGRADED})


@dataclass(frozen=True, slots=True)
class Judgement:
    """`cause` in words, empty when there is nothing to say. `recovery` why it is not usable, if it
    was.
    """

    state: State
    cause: str = ""
    recovery: Cause | None = None


def judge(
    want: Want,
    stack: Stack,
    instances: Sequence[Instance],
    *,
    failing: str | None = None,
    ended: str = "",
) -> Judgement:
    """`ended`: how its last client ended; `failing`: the same, once several tries failed."""
    top = stack.top
    serving = next((one for one in instances if _serves(one, top)), None)
    if serving is not None:
        return _served(want, stack, serving, failing)
    if problem := want.problem or stack.obstacle:
        return Judgement(State.FAILED, problem)
    if top is not None and not top.ours:
        return Judgement(State.DEGRADED, f"covered by another mount: {top.description}")
    chosen = current(want, stack, instances)
    if failing is not None and (chosen is None or chosen.shown is None):
        return Judgement(State.FAILED, failing, _why_lost(instances))
    if top is not None:
        return _lost(instances, ended)
    if chosen is None:
        return Judgement(State.ABSENT, recovery=_why_lost(instances))
    return Judgement(State.STARTING, recovery=Cause.UNMOUNTED)


def _serves(instance: Instance, top: Layer | None) -> bool:
    """Whether pods see this one, alive."""
    gone = instance.client is not None and instance.client.ended is not None
    dead = gone or instance.health is Health.DEAD
    return top is not None and instance.shown == top.shown and not dead


def _served(want: Want, stack: Stack, serving: Instance, failing: str | None) -> Judgement:
    if serving.health is Health.HUNG:
        return Judgement(State.HUNG, "it does not answer", Cause.HUNG)
    if serving.health is Health.FAULTY:
        return Judgement(State.DEGRADED, "it answers with an error")
    if serving.digest != want.digest:
        reason = want.problem or failing or "it is being replaced"
        return Judgement(State.DEGRADED, f"the new configuration is not in effect: {reason}")
    if stack.anchor is None:
        return Judgement(State.DEGRADED, "there is no read-only anchor below it")
    return Judgement(State.PUBLISHED)


def _lost(instances: Sequence[Instance], ended: str) -> Judgement:
    cause = _why_lost(instances)
    if cause is Cause.HUNG:
        return Judgement(State.HUNG, "it does not answer; it is being replaced", cause)
    return Judgement(State.DEAD, ended or "nobody serves it", cause)


def _why_lost(instances: Sequence[Instance]) -> Cause:
    healths = {instance.health for instance in instances if instance.present}
    if Health.HUNG in healths:
        return Cause.HUNG
    return Cause.CONNECTION_ABORTED if Health.DEAD in healths else Cause.CLIENT_ENDED
