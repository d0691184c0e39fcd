# SPDX-License-Identifier: Apache-2.0
"""The state of a mount, as people and metrics see it, from what is there. Pure."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from fuse_mounter.observed import Health, Instance, Layer, Observation, Stack
from fuse_mounter.plan import Want, current
from fuse_mounter.publication import Publication


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
    STALE = "stale"  # its server did not know it any more
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
    if want.drained:
        return _draining(stack, instances)
    if problem := want.problem or stack.obstacle:
        return Judgement(State.FAILED, problem)
    if top is not None and not top.ours:
        return Judgement(State.DEGRADED, f"covered by another mount: {top.description}")
    chosen = current(want, stack, instances)
    waiting = chosen is None or chosen.shown is None
    if failing is not None and waiting:
        return Judgement(State.FAILED, f"{failing}{_held(want)}", _why_lost(instances))
    if top is not None:
        return _lost(want, instances, ended)
    if chosen is None:
        return Judgement(State.ABSENT, f"{_NOTHING}{_held(want)}", _why_lost(instances))
    return Judgement(State.STARTING, recovery=Cause.UNMOUNTED)


_NOTHING = "pods see a read-only place with nothing in it"


def _held(want: Want) -> str:
    return f"; {want.held}" if want.held else ""


def _draining(stack: Stack, instances: Sequence[Instance]) -> Judgement:
    if stack.top is not None or any(one.present for one in instances):
        return Judgement(State.DRAINING, "it is being taken away, as was asked")
    return Judgement(
        State.ABSENT, "it was drained, as was asked; `nodeshare mounts replace` brings it back"
    )


def _serves(instance: Instance, top: Layer | None) -> bool:
    """Whether pods see this one, alive."""
    return top is not None and instance.shown == top.shown and not instance.useless


def _served(want: Want, stack: Stack, serving: Instance, failing: str | None) -> Judgement:
    if want.drained:
        return Judgement(State.DRAINING, "it is being taken away, as was asked")
    if serving.health is Health.HUNG:
        return Judgement(State.HUNG, _hangs(want, serving), Cause.HUNG)
    if serving.health is Health.FAULTY:
        return Judgement(State.DEGRADED, f"it answers with an error{_because(serving)}")
    if serving.turned_read_only:
        return Judgement(
            State.DEGRADED,
            "its file system was made read-only by the kernel, as after errors of a disk; see the "
            "kernel's log, repair it, then `nodeshare mounts replace`",
        )
    if serving.number <= want.newer_than:
        return Judgement(State.DEGRADED, "it serves; another one is on its way, as was asked")
    if serving.digest != want.digest:
        reason = want.problem or failing or "it is being replaced"
        return Judgement(State.DEGRADED, f"the new configuration is not in effect: {reason}")
    if stack.anchor is None:
        return Judgement(State.DEGRADED, "there is no read-only anchor below it")
    # It answers, and yet its client or the kernel tells of trouble.
    return Judgement(State.DEGRADED if serving.fault else State.PUBLISHED, serving.fault)


def everywhere(judgement: Judgement, want: Want, seen: Observation) -> Judgement:
    """The same, unless it is not seen at all its other places as it shall be."""
    if judgement.state is not State.PUBLISHED:
        return judgement
    for publication in want.also:
        if problem := _elsewhere(publication, seen.stack(publication.path)):
            return Judgement(State.DEGRADED, f"{publication.path!r}: {problem}")
    return judgement


def _elsewhere(publication: Publication, stack: Stack) -> str | None:
    """What is not there yet is on its way, unless there is a reason against it."""
    if problem := stack.obstacle or publication.problem:
        return problem
    covered = stack.top is not None and not stack.top.ours
    return f"covered by {stack.top.description}" if stack.top and covered else None


def _hangs(want: Want, serving: Instance) -> str:
    text = f"it does not answer{_because(serving)}"
    if want.has_client:
        return text
    return (
        f"{text}; the kernel waits for its server, and loses nothing; "
        "`nodeshare mounts replace` gives it up"
    )


def _because(serving: Instance) -> str:
    return f": {serving.fault}" if serving.fault else ""


def _lost(want: Want, instances: Sequence[Instance], ended: str) -> Judgement:
    cause = _why_lost(instances)
    if cause is Cause.HUNG:
        return Judgement(
            State.HUNG, f"it does not answer; it is being replaced{_held(want)}", cause
        )
    if cause is Cause.STALE:
        return Judgement(
            State.DEAD, f"its server does not know it any more (ESTALE){_held(want)}", cause
        )
    return Judgement(State.DEAD, f"{ended or 'nobody serves it'}{_held(want)}", cause)


def _why_lost(instances: Sequence[Instance]) -> Cause:
    healths = {instance.health for instance in instances if instance.present}
    if Health.HUNG in healths:
        return Cause.HUNG
    if Health.STALE in healths:
        return Cause.STALE
    return Cause.CONNECTION_ABORTED if Health.DEAD in healths else Cause.CLIENT_ENDED
