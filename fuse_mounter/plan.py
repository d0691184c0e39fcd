# SPDX-License-Identifier: Apache-2.0
"""From what is there and what shall be there to what to do next. Pure.

Each action is one small step; after the steps one looks again, so a plan need not foresee anything.
When nothing changes outside, repeated planning ends with an empty plan: that is what the
configuration asks for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fuse_mounter.observed import Health, Instance, Observation, Stack
from fuse_mounter.publication import Publication
from fuse_mounter.steps import (
    Abort,
    Action,
    DetachTop,
    Forget,
    Kill,
    PlaceAnchor,
    PrepareRoot,
    Publish,
    RemoveAnchor,
    RemovePlace,
    Retire,
    Start,
    Terminate,
)


@dataclass(frozen=True, slots=True)
class Want:
    """One configured mount. `paused`: the last try failed not long ago. `held`: why nothing is
    started for it now (its server is waited for). `problem`: why it is not even tried.
    `newer_than`: instances up to this number are to be replaced. `drained`: it shall be away.
    `also`: where else it is published. `server`: whose trouble it shares (None: nobody's).
    """

    name: str
    path: str
    digest: str
    has_client: bool = True
    paused: bool = False
    held: str | None = None
    problem: str | None = None
    newer_than: int = 0
    drained: bool = False
    also: tuple[Publication, ...] = ()
    server: str | None = None

    @property
    def publications(self) -> tuple[Publication, ...]:
        """All of them, its own path first."""
        return (Publication(self.path), *self.also)


def plan(wants: Sequence[Want], seen: Observation) -> list[Action]:
    """The next steps, in order. Empty: everything is as it shall be, or has to be waited for."""
    if not seen.root_ready and wants:
        return [PrepareRoot()]
    actions: list[Action] = []
    for want in wants:
        actions += _drained(want, seen) if want.drained else _wanted(want, seen)
    names = {want.name for want in wants}
    paths = {publication.path for want in wants for publication in want.publications}
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


def _wanted(want: Want, seen: Observation) -> list[Action]:
    stack, instances = seen.stack(want.path), seen.of(want.name)
    actions: list[Action] = []
    for instance in instances:
        actions += _dispose(instance) or _clean(want, stack, instance)
    if stack.obstacle:
        return actions
    if not want.paused:
        actions += _anchors(want, seen)
    if want.problem:
        return actions
    chosen = current(want, stack, instances)
    if chosen is None:
        return actions if want.paused or want.held else [*actions, Start(want.name)]
    if chosen.shown is None or want.paused:
        return actions
    for publication in want.publications:
        actions += _publish(want, publication, chosen, seen)
    actions += [action for action in _retire(want, chosen, seen) if action not in actions]
    return actions


def _retire(want: Want, chosen: Instance, seen: Observation) -> list[Action]:
    """Those it replaced; never before it is in their place."""
    if not all(_settled(publication, chosen, seen) for publication in want.publications):
        return []
    replaced = [one for one in seen.of(want.name) if one.present and one is not chosen]
    return [Retire(one.staging) for one in replaced if not one.gone]


def _anchors(want: Want, seen: Observation) -> Iterator[Action]:
    """From the first moment: nobody shall write to the node's disk in its place."""
    for publication in want.publications:
        stack = seen.stack(publication.path)
        if not (stack.obstacle or stack.layers) and stack.anchor is None:
            yield PlaceAnchor(publication.path)


def _settled(publication: Publication, chosen: Instance, seen: Observation) -> bool:
    """Nothing of an instance before is seen here any more, or that is not for us to end."""
    stack = seen.stack(publication.path)
    if stack.obstacle or publication.problem:
        return True
    right = stack.top is not None and stack.top.shown == publication.shows(chosen.shown)
    return right and not publication.elsewhere


def _publish(
    want: Want, publication: Publication, chosen: Instance, seen: Observation
) -> Iterator[Action]:
    stack, shown = seen.stack(publication.path), publication.shows(chosen.shown)
    top = stack.top
    right = top is not None and top.shown == shown and not publication.elsewhere
    if stack.obstacle or right or (top is not None and not top.ours):
        return
    if not publication.elsewhere and any(layer.shown == shown for layer in stack.layers):
        assert top is not None
        yield DetachTop(publication.path, top.mount_id)
        return
    if chosen.health is not Health.OK or not publication.at_hand(chosen.staging):
        return
    instances = seen.of(want.name)
    served = [publication.shows(one.shown) for one in instances if one.present and not one.gone]
    if top is not None and len(stack.layers) > 1 and top.shown not in served:
        # Dead on something older, as the ladder leaves it: one of them is enough to replace. Both
        # steps at once: what is older shows only in between.
        yield DetachTop(publication.path, top.mount_id)
        top = stack.layers[-2]
    if top is None or top.ours:
        yield Publish(want.name, chosen.staging, publication.path, top)


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
    useless = instance.useless or _late(stack, instance)
    if not instance.present:
        useless = instance.abandoned
    if instance.client is not None:
        return [Kill(instance.client.key)] if useless else []
    if not instance.present:
        return []
    if instance.pending:
        return []
    # Without a mount it is what an agent left that died while it asked the kernel for one.
    return [Retire(instance.staging)] if useless or want.has_client or not instance.shown else []


def _late(stack: Stack, instance: Instance) -> bool:
    """It should have mounted, and answered well, long ago. What pods see already may have trouble
    now and then: that is no reason to take it from them.
    """
    published = stack.top is not None and instance.shown == stack.top.shown
    answers = instance.shown is not None and (published or instance.health is not Health.FAULTY)
    return instance.overdue and not answers


def _usable(want: Want, stack: Stack, instance: Instance) -> bool:
    served = instance.running if want.has_client else instance.pending or instance.shown is not None
    return (
        instance.present
        and instance.digest == want.digest
        and instance.number > want.newer_than
        and served
        and not instance.useless
        # A kernel mount that hangs is waited for: a second one would hang too.
        and (instance.health is not Health.HUNG or not want.has_client)
        and not _late(stack, instance)
    )


def _drained(want: Want, seen: Observation) -> Iterator[Action]:
    """Away, but its places stay guarded."""
    for publication in want.publications:
        stack = seen.stack(publication.path)
        if stack.top is not None:
            yield from _clear(stack)
    if not want.paused:
        yield from _anchors(want, seen)
    for instance in seen.of(want.name):
        yield from _end(instance, published=_published(instance, seen))


def _clear(stack: Stack) -> Iterator[Action]:
    """A path that is no longer wanted, from the top down. What is not ours stays."""
    if stack.top is not None:
        if stack.top.ours:
            yield DetachTop(stack.path, stack.top.mount_id)
    elif stack.anchor is not None:
        yield RemoveAnchor(stack.path, stack.anchor)
    elif stack.obstacle is None:
        yield RemovePlace(stack.path)


def _published(instance: Instance, seen: Observation) -> bool:
    shown = instance.shown
    if shown is None:
        return False
    layers = [layer.shown for stack in seen.stacks.values() for layer in stack.layers]
    # A connection's device number is its own: a folder of it is seen as well.
    own = {layer.device for layer in layers} if instance.client is not None else set()
    return shown in layers or shown.device in own


def _end(instance: Instance, *, published: bool) -> list[Action]:
    """An instance of a mount that is no longer wanted: unpublished, unmounted, then ended."""
    if disposed := _dispose(instance):
        return disposed
    if (published and instance.client is not None) or instance.pending:
        return []
    if instance.present and (instance.shown is not None or instance.client is None):
        return [Retire(instance.staging)]
    if instance.client is not None:
        key = instance.client.key
        return [Kill(key) if instance.overdue else Terminate(key)]
    return []
