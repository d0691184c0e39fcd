# SPDX-License-Identifier: Apache-2.0
"""Says how everything stands, from what is there and what is remembered. Changes nothing."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import trio

from fuse_mounter.config import MounterConfig
from fuse_mounter.drivers.base import MountBase
from fuse_mounter.drivers.registry import driver_of
from fuse_mounter.look import Looker
from fuse_mounter.observed import Instance, Observation
from fuse_mounter.plan import Want, current
from fuse_mounter.publication import SharedStatus
from fuse_mounter.record import MountStatus, Record
from fuse_mounter.request_timeout import RequestTimeout
from fuse_mounter.standing import Restarts, Standing
from fuse_mounter.states import USABLE, State
from fuse_mounter.wishes import Wishes


class Reporter:
    """Remembers what mounts were that are leaving, by name."""

    def __init__(self, wishes: Wishes, looker: Looker) -> None:
        self._wishes, self._looker = wishes, looker
        self._configured: dict[str, MountBase] = {}
        self._leaving: dict[str, float] = {}
        #: What the kernel goes by, on this node.
        self.request_timeout = RequestTimeout()

    def standing(
        self,
        wants: Sequence[Want],
        config: MounterConfig,
        seen: Observation,
        busy: Collection[str],
        waiting: Collection[str],
    ) -> Standing:
        """After a round."""
        self._configured |= {mount.name: mount for mount in config.mounts}
        pairs = zip(wants, config.mounts, strict=True)
        limit = config.health.restarts_at_once
        return Standing(
            mounts=tuple(self._status(want, mount, seen) for want, mount in pairs),
            leaving=tuple(self._all_leaving(config, seen)),
            restarts=Restarts(len(busy), len(waiting), limit),
            breakers=self._wishes.breakers.tripped(),
            request_timeout=self.request_timeout,
        )

    def _status(self, want: Want, mount: MountBase, seen: Observation) -> MountStatus:
        record, stack = self._wishes.record(want.name), seen.stack(want.path)
        chosen = self._serving(want, seen)
        if record.published_by is None and record.state in USABLE and chosen is not None:
            record.was_adopted(chosen.staging, now=trio.current_time())
        client = chosen.client if chosen else None
        status = record.status(
            mount,
            client_pid=client.key.pid if client else None,
            layers=len(stack.layers),
            waiting=self._looker.waiting(chosen) if chosen else None,
            probe=self._looker.prober.last(chosen.staging) if chosen else None,
            sign=self._looker.signs.last(chosen.staging) if chosen else None,
            server=driver_of(mount).server(mount),
            drained=want.drained,
        )
        return replace(
            status,
            shared=tuple(self._shared(want, chosen, seen)),
            staging=chosen.staging if chosen else None,
            probes=self._looker.prober.past(chosen.staging) if chosen else (),
        )

    def _shared(
        self, want: Want, chosen: Instance | None, seen: Observation
    ) -> Iterable[SharedStatus]:
        mended = self._looker.folders.mended
        for one in want.also:
            stack = seen.stack(one.path)
            shown = one.shows(chosen.shown if chosen else None)
            yield SharedStatus(
                path=one.path,
                folder=one.folder,
                read_only=one.read_only,
                published=stack.top is not None and stack.top.shown == shown,
                problem=stack.obstacle or one.problem,
                mended=mended[want.name, one.path],
            )

    def _serving(self, want: Want, seen: Observation) -> Instance | None:
        """The one that pods see, while it lives; else the one that is to serve."""
        stack, instances = seen.stack(want.path), seen.of(want.name)
        top = stack.top
        shown = (one for one in instances if top is not None and one.shown == top.shown)
        alive = next((one for one in shown if one.present and not one.useless), None)
        return alive or current(want, stack, instances)

    def _all_leaving(self, config: MounterConfig, seen: Observation) -> Iterable[MountStatus]:
        wanted = {mount.name for mount in config.mounts}
        left = {one.name: one for one in seen.instances if one.name not in wanted}
        self._leaving = {name: self._leaving.get(name, time.time()) for name in left}
        self._configured = {
            name: mount for name, mount in self._configured.items() if name in wanted | left.keys()
        }
        for name, one in left.items():
            mount = self._configured.get(name)
            yield _leaving(name, mount, one, self._leaving[name])


def _leaving(name: str, mount: MountBase | None, one: Instance, since: float) -> MountStatus:
    """`mount` None: an agent before this one made it, and nobody knows what it was."""
    base = mount or MountBase(driver="", name=name, path="unknown")
    record = Record(State.DRAINING, "it is not configured any more", since)
    client = one.client if one.running else None
    return record.status(
        base, client_pid=client.key.pid if client else None, layers=0, waiting=None, probe=None
    )
