# SPDX-License-Identifier: Apache-2.0
"""From what is there and what shall be there to what to do next. Pure.

Each action is one small step; after the steps one looks again, so a plan need not foresee anything.
When nothing changes outside, repeated planning ends with an empty plan: that is what the
configuration asks for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agents.processes import ProcessKey
from fuse_mounter.observed import Health, Instance, Layer, Observation, Stack


@dataclass(frozen=True, slots=True)
class Want:
    """One configured mount. `paused`: the last try failed not long ago. `problem`: why it is not
    even tried.
    """

    name: str
    path: str
    digest: str
    has_client: bool = True
    paused: bool = False
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class PrepareRoot:
    """Make the root a shared mount of its own."""


@dataclass(frozen=True, slots=True)
class PlaceAnchor:
    """Put the read-only bottom under a path."""

    path: str


@dataclass(frozen=True, slots=True)
class Start:
    """Begin a new instance."""

    name: str


@dataclass(frozen=True, slots=True)
class Publish:
    """Attach a staged instance at a path: beneath the present top, if there is one."""

    name: str
    staging: str
    path: str
    top: Layer | None


@dataclass(frozen=True, slots=True)
class DetachTop:
    """Lazily take away exactly this mount, which is on top."""

    path: str
    mount_id: int


@dataclass(frozen=True, slots=True)
class Abort:
    """Break a hung FUSE connection: its callers get an error instead of waiting for ever."""

    staging: str
    device: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Kill:
    """End a client that is of no use any more."""

    client: ProcessKey


@dataclass(frozen=True, slots=True)
class Terminate:
    """Ask a client to end."""

    client: ProcessKey


@dataclass(frozen=True, slots=True)
class Retire:
    """Take an instance's staging mount and directory away; its client serves open files on."""

    staging: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop the holder's record of a client that ended."""

    client: ProcessKey


@dataclass(frozen=True, slots=True)
class RemoveAnchor:
    """Take the last mount of a path away, and the path."""

    path: str
    mount_id: int


Action = (
    PrepareRoot
    | PlaceAnchor
    | Start
    | Publish
    | DetachTop
    | Abort
    | Kill
    | Terminate
    | Retire
    | Forget
    | RemoveAnchor
)


def plan(wants: Sequence[Want], seen: Observation) -> list[Action]:
    """The next steps, in order. Empty: everything is as it shall be, or has to be waited for."""
    if not seen.root_ready and wants:
        return [PrepareRoot()]
    actions: list[Action] = []
    for want in wants:
        actions += _wanted(want, seen.stack(want.path), seen.of(want.name))
    names, paths = {want.name for want in wants}, {want.path for want in wants}
    for path, stack in seen.stacks.items():
        if path not in paths:
            actions += _clear(stack)
    for instance in seen.instances:
        if instance.name not in names:
            actions += _end(instance, published=_published(instance, seen))
    return actions


def current(want: Want, stack: Stack, instances: Sequence[Instance]) -> Instance | None:
    """The instance that serves, or is to serve, this mount."""
    good = [one for one in instances if _usable(want, stack, one)]
    top = stack.top.shown if stack.top else None

    def rank(one: Instance) -> tuple[bool, bool, int]:
        return one.shown == top and top is not None, one.shown is not None, one.number

    return max(good, key=rank, default=None)


def _wanted(want: Want, stack: Stack, instances: Sequence[Instance]) -> list[Action]:
    actions: list[Action] = []
    for instance in instances:
        actions += _dispose(instance) or _clean(want, stack, instance)
    if stack.obstacle:
        return actions
    if stack.anchor is None and not stack.layers and not want.paused:
        # From the first moment: nobody shall write to the node's disk in its place.
        actions.append(PlaceAnchor(want.path))
    if want.problem:
        return actions
    chosen = current(want, stack, instances)
    if chosen is None:
        return actions if want.paused else [*actions, Start(want.name)]
    if chosen.shown is None or want.paused:
        return actions
    actions += _publish(want, stack, chosen, instances)
    if stack.top is not None and stack.top.shown == chosen.shown:
        # Those it replaced; never before it is in their place.
        replaced = [one for one in instances if one.present and one is not chosen]
        retire = [Retire(one.staging) for one in replaced if not _gone(one)]
        actions += [action for action in retire if action not in actions]
    return actions


def _publish(
    want: Want, stack: Stack, chosen: Instance, instances: Sequence[Instance]
) -> Iterator[Action]:
    assert chosen.shown is not None
    top = stack.top
    if top is not None and (top.shown == chosen.shown or not top.ours):
        return
    if any(layer.shown == chosen.shown for layer in stack.layers):
        assert top is not None
        yield DetachTop(want.path, top.mount_id)
        return
    if chosen.health is not Health.OK:
        return
    served = [one.shown for one in instances if one.present and not _gone(one)]
    if top is not None and len(stack.layers) > 1 and top.shown not in served:
        # Dead on something older, as the ladder leaves it: one of them is enough to replace. Both
        # steps at once: what is older shows only in between.
        yield DetachTop(want.path, top.mount_id)
        top = stack.layers[-2]
    if top is None or top.ours:
        yield Publish(want.name, chosen.staging, want.path, top)


def _dispose(instance: Instance) -> list[Action]:
    """What an instance needs that can serve nobody; nothing for another."""
    client = instance.client
    if client is None:
        return []
    if client.ended is not None:
        retire: list[Action] = [Retire(instance.staging)] if instance.present else []
        return [*retire, Forget(client.key)]
    if instance.health is Health.HUNG and instance.shown is not None:
        return [Abort(instance.staging, instance.shown.device), Kill(client.key)]
    return []


def _clean(want: Want, stack: Stack, instance: Instance) -> list[Action]:
    """What a mount that is wanted has no use for."""
    useless = instance.health is Health.DEAD or _late(stack, instance)
    if not instance.present:
        return []
    if instance.client is not None:
        return [Kill(instance.client.key)] if useless else []
    return [Retire(instance.staging)] if useless or want.has_client else []


def _late(stack: Stack, instance: Instance) -> bool:
    """It should have mounted, and answered well, long ago. What pods see already may have trouble
    now and then: that is no reason to take it from them.
    """
    published = stack.top is not None and instance.shown == stack.top.shown
    answers = instance.shown is not None and (published or instance.health is not Health.FAULTY)
    return instance.overdue and not answers


def _gone(instance: Instance) -> bool:
    return instance.client is not None and instance.client.ended is not None


def _usable(want: Want, stack: Stack, instance: Instance) -> bool:
    return (
        instance.present
        and instance.digest == want.digest
        and (instance.running or not want.has_client)
        and not _gone(instance)
        and instance.health is not Health.DEAD
        # A kernel mount that hangs is waited for: a second one would hang too.
        and (instance.health is not Health.HUNG or not want.has_client)
        and not _late(stack, instance)
    )


def _clear(stack: Stack) -> Iterator[Action]:
    """A path that is no longer wanted, from the top down. What is not ours stays."""
    if stack.top is not None:
        if stack.top.ours:
            yield DetachTop(stack.path, stack.top.mount_id)
    elif stack.anchor is not None:
        yield RemoveAnchor(stack.path, stack.anchor)


def _published(instance: Instance, seen: Observation) -> bool:
    return instance.shown is not None and any(
        layer.shown == instance.shown for stack in seen.stacks.values() for layer in stack.layers
    )


def _end(instance: Instance, *, published: bool) -> list[Action]:
    """An instance of a mount that is no longer wanted: unpublished, unmounted, then ended."""
    if disposed := _dispose(instance):
        return disposed
    if published and instance.client is not None:
        return []
    if instance.present and (instance.shown is not None or instance.client is None):
        return [Retire(instance.staging)]
    if instance.client is not None:
        key = instance.client.key
        return [Kill(key) if instance.overdue else Terminate(key)]
    return []
