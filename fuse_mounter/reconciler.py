# SPDX-License-Identifier: Apache-2.0
"""The loop: look, plan, act; at start, on a tick, and when a client ends or a probe comes back.

It keeps nothing that decides anything (`record` is history): an agent that starts anew finds mounts
and clients as they are, and leaves them alone. When it is cancelled it leaves them alone too.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from agents.errors import AgentError, Unavailable
from agents.holder_client import Holder
from agents.hostfs import HostFs
from agents.logs import Logger
from agents.mounts import Mounts
from fuse_mounter.actions import Performer, Situation
from fuse_mounter.config import MounterConfig
from fuse_mounter.drivers.base import MountBase, SourceMount
from fuse_mounter.drivers.registry import driver_of
from fuse_mounter.look import Looker
from fuse_mounter.observed import Observation
from fuse_mounter.places import Places
from fuse_mounter.plan import Action, Want, current, plan
from fuse_mounter.publish import Publisher, Way
from fuse_mounter.record import MountStatus, Record
from fuse_mounter.states import USABLE, judge

TICK_S = 1.0
#: While something starts or ends, its progress is looked at this often.
_SOON_S = 0.01

Publish = Callable[[tuple[MountStatus, ...]], None]


class Reconciler:
    """`published` gets the status of all mounts after every round."""

    def __init__(
        self,
        config: MounterConfig,
        places: Places,
        mounts: Mounts,
        host: HostFs,
        log: Logger,
        published: Publish,
    ) -> None:
        self._config, self._places, self._host, self._log = config, places, host, log
        self._next_config = config
        self._published = published
        self._publisher = Publisher(places, mounts, host)
        self._looker = Looker(places, self._publisher, config.health.hang_after)
        self._performer = Performer(places, self._publisher, mounts, self._looker, host, log)
        self._records: dict[str, Record] = {}
        self._accounted: set[str] = set()
        self._wake = trio.Event()

    async def wait_for_work(self) -> None:
        """Until something is configured, or was left by an agent before this one."""
        while not self._next_config.mounts and not self._publisher.anything_left():
            self._wake = trio.Event()
            self._published(())
            await self._wake.wait()

    def prepare(self) -> None:
        """Directories. Raises OSError when they cannot be made."""
        self._publisher.prepare()

    def remove_everything(self) -> None:
        """What `prepare` and the root need, after a drain."""
        self._publisher.remove_everything()

    def apply(self, config: MounterConfig) -> None:
        """A changed configuration (never of the root), from the next round on."""
        self._next_config = config
        self.wake()

    def wake(self) -> None:
        """Look now."""
        self._wake.set()

    async def run(self, holder: Holder) -> None:
        """Until the holder is gone. Mounts stay, then and when this is cancelled."""
        async with self._rounds() as nursery:
            nursery.start_soon(self._listen, holder, nursery.cancel_scope)
            before: Sequence[Action] = ()
            while True:
                self._wake = trio.Event()
                try:
                    seen, steps = await self.round(holder, nursery)
                except Unavailable as error:
                    self._log.warning("holder lost", error=str(error))
                    break
                # The same steps again mean that they had no effect: no reason to hurry.
                soon = self._under_way(seen) or (bool(steps) and steps != before)
                before = steps
                with trio.move_on_after(_SOON_S if soon else self._patience()):
                    await self._wake.wait()

    @asynccontextmanager
    async def _rounds(self) -> AsyncIterator[trio.Nursery]:
        """For what runs beside the rounds: at their end it is left behind."""
        try:
            async with trio.open_nursery() as nursery:
                yield nursery
                nursery.cancel_scope.cancel()
        finally:
            self._looker.prober.close()

    async def _listen(self, holder: Holder, scope: trio.CancelScope) -> None:
        async for client in holder.exits:
            assert client.ended is not None
            self._log.info("client ended", pid=client.key.pid, cause=client.ended.describe())
            self.wake()
        scope.cancel()

    async def drain(self, holder: Holder, limit_s: float) -> tuple[str, ...]:
        """Take everything away. Returns what is still there after the limit."""
        self.apply(self._config.model_copy(update={"mounts": ()}))
        left: tuple[str, ...] = ()
        deadline = trio.current_time() + limit_s
        async with self._rounds() as nursery:
            while trio.current_time() < deadline:
                seen, _ = await self.round(holder, nursery)
                left = (*seen.stacks, *(one.staging for one in seen.instances))
                if not left:
                    break
                await trio.sleep(_SOON_S)
        return left

    async def round(
        self, holder: Holder, nursery: trio.Nursery
    ) -> tuple[Observation, Sequence[Action]]:
        """Look, plan, act once. Returns what is there then, and the steps that were taken."""
        self._config = self._next_config
        seen = await self._looker.look(holder, self._config)
        self._account(seen)
        wants = [self._want(mount) for mount in self._config.mounts]
        # Judged before and after: what is mended within one round was broken all the same.
        self._judge(wants, seen)
        steps = plan(wants, seen)
        for step in steps:
            await self._take(step, Situation(seen, self._config, holder))
        if steps:
            seen = await self._looker.look(holder, self._config)
            self._judge(wants, seen)
        self._looker.probe_due(seen, self._config, nursery, self.wake)
        self._tell(wants, seen)
        return seen, steps

    async def _take(self, step: Action, situation: Situation) -> None:
        try:
            done = await self._performer.perform(step, situation)
        except Unavailable:
            raise
        except (OSError, AgentError) as error:
            self._failed(step, error)
            return
        if done is not None:
            record = self._record(done.name)
            record.was_published(done.staging, done.way, now=trio.current_time())

    def _failed(self, step: Action, error: Exception) -> None:
        """One mount's trouble is its own; a step for all is tried again in the next round."""
        self._log.warning("step not possible", step=str(step), error=str(error))
        name, path = getattr(step, "name", None), getattr(step, "path", None)
        for mount in self._config.mounts:
            if mount.name == name or mount.path == path:
                self._record(mount.name).failed(str(error), now=trio.current_time())

    def _account(self, seen: Observation) -> None:
        """Every client that ended counts once, with the last words of its log."""
        now = trio.current_time()
        for one in seen.instances:
            ended = one.client.ended if one.client is not None else None
            if ended is not None and one.present and one.staging not in self._accounted:
                self._accounted.add(one.staging)
                text = f"its client {ended.describe()}{self._last_words(one.name)}"
                self._record(one.name).ended(one.staging, text, now=now)
        self._accounted &= {one.staging for one in seen.instances}

    def _last_words(self, name: str) -> str:
        try:
            lines = self._places.log(name).read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return f": {lines[-1][:200]}" if lines else ""

    def _record(self, name: str) -> Record:
        return self._records.setdefault(name, Record(since=time.time()))

    def _want(self, mount: MountBase) -> Want:
        driver, record = driver_of(mount), self._record(mount.name)
        problem = self._loop(mount) or driver.preflight(mount, self._host)
        return Want(
            name=mount.name,
            path=mount.path,
            digest=mount.digest,
            has_client=driver.has_client,
            paused=trio.current_time() < record.not_before,
            problem=None if problem is None else str(problem),
        )

    def _patience(self) -> float:
        """Until the next look: a tick, or less when a mount may be tried again before that."""
        now = trio.current_time()
        pauses = (record.not_before - now for record in self._records.values())
        return min([TICK_S, *(pause for pause in pauses if pause > 0)])

    def _loop(self, mount: MountBase) -> AgentError | None:
        """A source that holds our staging place would be served to itself, and wait for itself."""
        if isinstance(mount, SourceMount):
            source = mount.source  # as it is written: looking at it might hang
            for own in (self._places.own, self._places.root):
                if _within(own, source) or _within(source, own):
                    return AgentError(
                        f"{str(mount.source)!r} and our own {str(own)!r} overlap",
                        remedy="serve another directory",
                    )
        return None

    def _under_way(self, seen: Observation) -> bool:
        """Something will change by itself within moments."""
        wanted = {mount.name for mount in self._config.mounts}
        return any(
            one.present and one.running and one.shown is None
            for one in seen.instances
            if one.name in wanted
        )

    def _judge(self, wants: Sequence[Want], seen: Observation) -> None:
        now = trio.current_time()
        for want in wants:
            record, stack = self._record(want.name), seen.stack(want.path)
            instances = seen.of(want.name)
            judgement = judge(want, stack, instances, failing=record.failing, ended=record.failure)
            if record.judged(judgement, now=now, wall=time.time()):
                state, cause = record.state.value, record.cause
                self._log.info("mount state", mount=want.name, state=state, cause=cause)
            if record.state in USABLE:
                record.steady(now=now)

    def _tell(self, wants: Sequence[Want], seen: Observation) -> None:
        pairs = zip(wants, self._config.mounts, strict=True)
        self._published(tuple(self._status(want, mount, seen) for want, mount in pairs))

    def _status(self, want: Want, mount: MountBase, seen: Observation) -> MountStatus:
        record, stack = self._record(want.name), seen.stack(want.path)
        chosen = current(want, stack, seen.of(want.name))
        if record.published_by is None and record.state in USABLE:
            record.published_by = Way.ADOPTED
        probe = self._looker.prober.last(chosen.staging) if chosen else None
        client = chosen.client if chosen else None
        return record.status(
            mount,
            client_pid=client.key.pid if client else None,
            layers=len(stack.layers),
            waiting=self._looker.waiting(chosen) if chosen else None,
            probe_s=probe.seconds if probe else None,
        )


def _within(path: Path, directory: Path) -> bool:
    return f"{path}/".startswith(f"{directory}/")
