# SPDX-License-Identifier: Apache-2.0
"""The loop: look, plan, act; at start, on a tick, and when a client ends or a probe comes back.

It keeps nothing that decides anything (`record` is history): an agent that starts anew finds mounts
and clients as they are, and leaves them alone. When it is cancelled it leaves them alone too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from agents.errors import AgentError, Unavailable
from agents.holder_client import Holder
from agents.hostfs import HostFs
from agents.logs import Logger
from agents.mounts import Mounts
from fuse_mounter import request_timeout
from fuse_mounter.actions import Aborted, Performer, Published, Situation
from fuse_mounter.config import MounterConfig
from fuse_mounter.drivers.base import MountBase
from fuse_mounter.history import History
from fuse_mounter.leftovers import Leftovers
from fuse_mounter.look import Looker
from fuse_mounter.observed import Observation
from fuse_mounter.places import Places
from fuse_mounter.plan import plan
from fuse_mounter.publish import Publisher
from fuse_mounter.reporting import Reporter
from fuse_mounter.request_timeout import RequestTimeout
from fuse_mounter.shared_folders import SharedFolders
from fuse_mounter.standing import Standing, Transition
from fuse_mounter.steps import Action, Kill, PrepareRoot, Start
from fuse_mounter.turns import BUSY_S, beginning, in_turn
from fuse_mounter.wishes import Wishes

TICK_S = 1.0
#: While something starts or ends, its progress is looked at this often; less often when that lasts.
_SOON_S, _WHILE_S = 0.01, 0.25

Publish = Callable[[Standing], None]


class Reconciler:
    """`published` gets how all mounts stand after every round; `changed` every transition."""

    def __init__(
        self,
        config: MounterConfig,
        places: Places,
        mounts: Mounts,
        host: HostFs,
        log: Logger,
        published: Publish,
        changed: Callable[[Transition], None] = lambda _: None,
    ) -> None:
        self._config, self._places, self._host, self._log = config, places, host, log
        self._next_config = config
        self._published = published
        self._publisher = Publisher(places, mounts, host)
        self._folders = SharedFolders(places, host, log)
        self._looker = Looker(
            places, self._publisher, host, self._folders, config.health.hang_after
        )
        self._performer = Performer(places, self._publisher, mounts, self._looker, host, log)
        self._leftovers = Leftovers(places)
        self.wishes = Wishes(places, host, self._folders.publications)
        self._reporter = Reporter(self.wishes, self._looker)
        self._limited: RequestTimeout | None = None
        self._history = History(self.wishes, places, log, changed)
        self._complained: dict[str, str] = {}
        self._wake = trio.Event()
        #: What was seen last; set anew after every round.
        self.seen = Observation(root_ready=False)
        self._rounded = trio.Event()

    async def wait_for_work(self) -> None:
        """Until something is configured, or was left by an agent before this one."""
        while not self._next_config.mounts and not self._publisher.ground.anything_left():
            self._wake = trio.Event()
            self._published(Standing())
            await self._wake.wait()

    def prepare(self, holder_pid: int | None = None) -> None:
        """Directories, and the staging place that we share with this holder (None: it lives in our
        own mount namespace). Raises OSError or AgentError.
        """
        self._publisher.prepare(holder_pid)

    def remove_everything(self) -> None:
        """What `prepare` and the root need, after a drain."""
        self._publisher.ground.remove()

    @property
    def config(self) -> MounterConfig:
        """What the rounds go by."""
        return self._next_config

    @property
    def looker(self) -> Looker:
        return self._looker

    async def rounded(self) -> None:
        """Until the end of a round that has not begun yet."""
        for _ in range(2):
            self.wake()
            await self._rounded.wait()

    async def next_round(self) -> None:
        """Until the end of a round, whenever it comes."""
        await self._rounded.wait()

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
                except OSError as error:  # such as a table of descriptors that is full
                    self._complain("look not possible", "", str(error))
                    await trio.sleep(TICK_S)
                    continue
                # The same steps again mean that they had no effect: no reason to hurry.
                soon = bool(steps) and steps != before
                before = steps
                with trio.move_on_after(_SOON_S if soon else self._patience(seen)):
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
            self._folders.close()

    async def _listen(self, holder: Holder, scope: trio.CancelScope) -> None:
        async for client in holder.exits:
            assert client.ended is not None
            self._log.info("client ended", pid=client.key.pid, cause=client.ended.describe())
            self.wake()
        scope.cancel()

    async def drain(self, holder: Holder, limit_s: float) -> tuple[str, ...]:
        """Take everything away. Returns what is still there when nothing more went for so long, or
        for as long as one of the clients may take to end.
        """
        self.apply(self._config.model_copy(update={"mounts": ()}))
        self._limited = RequestTimeout()  # not for us to set any more
        left: tuple[str, ...] = ()
        deadline = trio.current_time() + limit_s
        async with self._rounds() as nursery:
            while trio.current_time() < deadline:
                seen, _ = await self.round(holder, nursery)
                before, left = left, (*seen.stacks, *(one.staging for one in seen.instances))
                if not left:
                    break
                if not before or len(left) < len(before):
                    deadline = trio.current_time() + limit_s + _to_end_s(seen)
                await trio.sleep(_SOON_S)
        return left

    async def round(
        self, holder: Holder, nursery: trio.Nursery
    ) -> tuple[Observation, Sequence[Action]]:
        """Look, plan, act once. Returns what is there then, and the steps that were taken."""
        self._limit_requests()
        self._config = self._next_config
        seen = await self._looker.look(holder, self._config)
        self._history.account(seen, self._config.mounts)
        self.wishes.answered(self._config, seen, self._looker.prober)
        wants = self.wishes.all(self._config)
        # Judged before and after: what is mended within one round was broken all the same.
        self._history.judge(wants, seen)
        at_once = self._config.health.restarts_at_once
        steps, waiting = in_turn(plan(wants, seen), wants, seen, at_once)
        for step in steps:
            if isinstance(step, Start) and not self.wishes.may_start(self._mount(step.name)):
                continue
            await self._take(step, Situation(seen, self._config, holder, nursery, self._ended))
        self._publisher.put_anchor_away()
        if steps:
            seen = await self._looker.look(holder, self._config)
            self._history.judge(wants, seen)
        self._looker.probe_due(seen, self._config, nursery, self.wake)
        every_s = self._config.health.probe_every
        self._folders.look_after(seen, self._config.mounts, every_s, nursery, self.wake)
        self._leftovers.clear(
            [one.staging for one in seen.instances],
            [mount.name for mount in self._config.mounts],
            nursery,
        )
        busy = beginning(wants, seen)
        self._published(self._reporter.standing(wants, self._config, seen, busy, waiting))
        self.seen = seen
        self._rounded.set()
        self._rounded = trio.Event()
        return seen, steps

    def _limit_requests(self) -> None:
        """By the kernel, when a changed configuration says so; and at the start."""
        wanted_s = self._next_config.health.request_timeout
        if self._limited is not None and wanted_s == self._config.health.request_timeout:
            return
        now = request_timeout.apply(self._host, wanted_s, self._limited or RequestTimeout())
        self._limited = self._reporter.request_timeout = now
        if now.problem is not None:
            self._complain("FUSE requests are not limited", "request_timeout", now.problem)
        elif now.before is not None and wanted_s is not None:
            self._log.info(
                "FUSE requests are limited for the whole node",
                limit_s=now.seconds,
                was_s=now.before,
            )

    async def _take(self, step: Action, situation: Situation) -> None:
        try:
            outcome = await self._performer.perform(step, situation)
        except Unavailable:
            raise
        except (OSError, AgentError) as error:
            self._failed(step, error)
            return
        self._complained.pop(str(step), None)
        match step, outcome:
            case PrepareRoot(), _:
                self.wishes.hopeless = None
            case Start(name), _:
                self.wishes.started(self._mount(name))
            case _, Published(name, staging, way):
                self.wishes.record(name).was_published(staging, way, now=trio.current_time())
            case _, Aborted(name, callers):
                self.wishes.record(name).was_aborted(callers)
            case Kill(client), _:
                self._history.killed(client, situation.seen)

    def _mount(self, name: str) -> MountBase:
        return next(one for one in self._config.mounts if one.name == name)

    def _ended(self, step: Action, error: Exception | None) -> None:
        """What a step began has come to its end."""
        if error is not None:
            self._failed(step, error)
        self.wake()

    def _failed(self, step: Action, error: Exception) -> None:
        """One mount's trouble is its own; a step for all is tried again in the next round."""
        self._complain("step not possible", str(step), str(error))
        name, path = getattr(step, "name", None), getattr(step, "path", None)
        if isinstance(step, PrepareRoot):
            self.wishes.hopeless = str(error)
        if self._folders.failed(self._config.mounts, path, str(error)):
            return
        for mount in self._config.mounts:
            if mount.name == name or mount.path == path:
                self.wishes.failed(mount, str(error))

    def _complain(self, event: str, step: str, error: str) -> None:
        """Once, as long as it is the same."""
        if self._complained.get(step) != error:
            self._complained[step] = error
            self._log.warning(event, step=step, error=error)

    def _patience(self, seen: Observation) -> float:
        """Until the next look: a tick, or less when something changes by itself before that."""
        wanted = {mount.name for mount in self._config.mounts}
        starting = [
            one.age_s
            for one in seen.instances
            if one.name in wanted and one.present and one.running and one.shown is None
        ]
        if starting:
            return _SOON_S if min(starting) < BUSY_S else _WHILE_S
        return min(TICK_S, self.wishes.patience_s())


def _to_end_s(seen: Observation) -> float:
    """How long the clients that run may take to end."""
    clients = [one.client for one in seen.instances if one.client is not None and one.running]
    return max((client.end_limit_s or 0.0 for client in clients), default=0.0)
