# SPDX-License-Identifier: Apache-2.0
"""Answers what an operator asks of the running agent (`requests`): writes a wish down, waits for
the rounds that carry it out, and says what came of it. Never waits without a limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import assert_never

import trio

from agents.errors import AgentError
from fuse_mounter.drivers.base import MountBase
from fuse_mounter.observed import Health, Instance
from fuse_mounter.reconciler import Reconciler
from fuse_mounter.requests import Reply, Request, Verb
from fuse_mounter.states import USABLE, State

#: Beside the limits of the configuration.
_LIMIT_S = 60.0
#: A new client that fails so often is not going to come.
_FAILURES = 3


class Operations:
    """One at a time for each mount."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler, self._wishes = reconciler, reconciler.wishes
        self._out: set[str] = set()

    async def handle(self, request: Request) -> Reply:
        """Raises AgentError with what is wrong with the request."""
        mount = self._mount(request.name)
        if request.name in self._out:
            raise AgentError(f"{request.name!r} is being worked on already", remedy="ask again")
        self._out.add(request.name)
        try:
            match request.verb:
                case Verb.REPLACE:
                    return await self._replace(mount)
                case Verb.PROBE:
                    return await self._probe(mount)
                case Verb.DRAIN:
                    return await self._drain(mount)
                case other:
                    assert_never(other)
        finally:
            self._out.discard(request.name)

    def _mount(self, name: str) -> MountBase:
        mounts = self._reconciler.config.mounts
        found = next((mount for mount in mounts if mount.name == name), None)
        if found is None:
            known = ", ".join(mount.name for mount in mounts) or "none"
            raise AgentError(f"no mount is called {name!r}", remedy=f"configured are: {known}")
        return found

    async def _replace(self, mount: MountBase) -> Reply:
        name, started = mount.name, trio.current_time()
        before = self._serving(mount)
        last = max((one.number for one in self._reconciler.seen.of(name)), default=0)
        self._wishes.asked_for(mount)
        self._wishes.newer_than[name] = last
        record = self._wishes.record(name)

        def settled() -> bool:
            serving = self._serving(mount)
            new = serving is not None and serving.number > last
            return (new and record.state in USABLE) or record.failures >= _FAILURES or hopeless()

        def hopeless() -> bool:
            return record.problem is not None or self._wishes.hopeless is not None

        limit_s = self._reconciler.config.health.start_limit + _LIMIT_S
        done = await self._until(settled, limit_s)
        serving = self._serving(mount)
        if serving is not None and serving.number > last:
            self._wishes.newer_than.pop(name, None)
            way = record.published_by.value if record.published_by else "unknown"
            took = trio.current_time() - started
            return Reply(
                True, f"{_who(before)} replaced by {_who(serving)} in {took:.2f} s ({way})"
            )
        self._wishes.newer_than.pop(name, None)
        self._reconciler.wake()
        why = self._wishes.hopeless or record.problem or record.failure
        why = why if done and why else f"nothing came in its place within {limit_s:g} s"
        kept = f"; {_who(before)} goes on" if serving is not None else ""
        return Reply(False, f"not replaced: {why}{kept}")

    async def _probe(self, mount: MountBase) -> Reply:
        prober, limit_s = self._reconciler.looker.prober, self._reconciler.config.health.hang_after
        one = self._serving(mount)
        if one is None:
            state = self._wishes.record(mount.name)
            return Reply(False, f"nothing is mounted: {state.state.value}: {state.cause}")
        asked = trio.current_time()
        prober.hurry(one.staging)

        def answered() -> bool:
            last = prober.last(one.staging)
            hangs = prober.out(one.staging) and one.health is Health.HUNG
            return hangs or (last is not None and last.at >= asked)

        await self._until(answered, limit_s + 1)
        last = prober.last(one.staging)
        # Whether another one is out by now says nothing of the answer that came.
        if last is None or (last.at < asked and last.health is not Health.HUNG):
            return Reply(False, "a probe is out and has not come back")
        if last.health is not Health.OK:
            await self._until(lambda: True, limit_s)  # so that it was looked at
            seen = self._reconciler.seen.instances
            fault = next((other.fault for other in seen if other.staging == one.staging), "")
            return Reply(False, f"{last.health.value} {fault}".strip())
        text = f"ok in {last.seconds * 1000:.1f} ms"
        if last.space is not None and last.space.size:
            text += f", {last.space.available >> 20} of {last.space.size >> 20} MiB available"
        return Reply(True, text)

    async def _drain(self, mount: MountBase) -> Reply:
        name, started = mount.name, time.monotonic()
        self._wishes.newer_than.pop(name, None)
        self._wishes.drained.add(mount)

        def away() -> bool:
            seen = self._reconciler.seen
            return not seen.of(name) and all(not seen.stack(path).layers for path in mount.paths)

        if await self._until(away, _LIMIT_S):
            took = time.monotonic() - started
            return Reply(
                True,
                f"away after {took:.2f} s; pods see a read-only place; it comes back with "
                f"`nodeshare mounts replace {name}`, or when it is configured anew",
            )
        record = self._wishes.record(name)
        state = record.cause if record.state is not State.DRAINING else "somebody still uses it"
        return Reply(False, f"still there after {_LIMIT_S:g} s: {state}; see: fuser -vm")

    async def _until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        """Whether it came to hold after a round, in time."""
        with trio.move_on_after(limit_s):
            await self._reconciler.rounded()
            while not condition():
                await self._reconciler.next_round()
            return True
        return False

    def _serving(self, mount: MountBase) -> Instance | None:
        seen = self._reconciler.seen
        top = seen.stack(mount.path).top
        of_it = (one for one in seen.of(mount.name) if top is not None and one.shown == top.shown)
        return next((one for one in of_it if one.present), None)


def _who(one: Instance | None) -> str:
    if one is None:
        return "the empty place"
    return f"client {one.client.key.pid}" if one.client else f"kernel mount {one.number}"
