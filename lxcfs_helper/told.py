# SPDX-License-Identifier: Apache-2.0
"""What is told without being asked for: by the kernel of cgroups and readers, by the runtime of
containers.

Each of these may be missing (an old runtime, no inotify instance left): then it is said once, and
whoever would be told looks for himself more often. Decides nothing about what is told.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import trio

from agents.agent import AgentContext
from agents.cgroup_events import CgroupChanges, CgroupEvents
from agents.containers import ContainerEvents
from agents.errors import Unavailable
from agents.logs import Logger
from lxcfs_helper.demand import Demand, WatchedDemand

_RETRY_S, _SETTLED_S = 2.0, 1.0


@dataclass(slots=True)
class Told:
    """The sources that there are; None for one that is missing. `by_runtime` and `by_cgroups` say
    whether each tells at this moment."""

    log: Logger
    cgroups: CgroupEvents | None = None
    demand: Demand | None = None
    runtime: ContainerEvents | None = None
    by_cgroups: bool = False
    by_runtime: bool = False

    @staticmethod
    def by_kernel(context: AgentContext, runtime: ContainerEvents | None) -> Told:
        """Everything that can be had here; `runtime` None: it tells nothing."""
        told = Told(context.log, runtime=runtime)
        try:
            told.demand = WatchedDemand()
            told.cgroups = CgroupEvents(context.host)
        except Unavailable as error:
            told.say("events unavailable", error)
        return told

    async def follow_cgroups(self, tell: Callable[[CgroupChanges], None]) -> None:
        """Until no more can be watched."""
        if self.cgroups is None:
            return
        try:
            await trio.to_thread.run_sync(self.cgroups.start)
            self.by_cgroups = True
            tell(CgroupChanges(lost=True))  # what happened meanwhile nobody told
            while True:
                tell(await self.cgroups.changes())
        except Unavailable as error:
            self.by_cgroups = False
            self.cgroups.close()  # or what it watches already would fill its queue
            self.cgroups = None
            self.say("cgroup events unavailable", error)

    async def follow_readers(self, tell: Callable[[Collection[str]], None]) -> None:
        """Never returns, where readers are told at all."""
        while self.demand is not None:
            tell(await self.demand.readers())

    async def follow_runtime(self, tell: Callable[[], None]) -> None:
        """Call for every event. Returns when this runtime tells none; one that is away is tried
        again."""
        if self.runtime is None:
            return
        token = trio.lowlevel.current_trio_token()

        def changed() -> None:
            token.run_sync_soon(tell, idempotent=True)

        while True:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._is_followed_soon)
                told = await self._followed(self.runtime, changed)
                nursery.cancel_scope.cancel()
            self.by_runtime = False
            if not told:
                return
            await trio.sleep(_RETRY_S)

    async def _is_followed_soon(self) -> None:
        """A stream that did not end at once is one, though nothing was told yet."""
        await trio.sleep(_SETTLED_S)
        self.by_runtime = True

    async def _followed(self, runtime: ContainerEvents, changed: Callable[[], None]) -> bool:
        """Until the stream ends. False: there is none."""
        try:
            return await trio.to_thread.run_sync(runtime.follow, changed, abandon_on_cancel=True)
        except Unavailable:
            return True  # whoever asks it who runs says that it is away

    def features(self) -> dict[str, bool]:
        """Which of them tell at this moment, for people and metrics."""
        return {
            "cgroup_events": self.by_cgroups,
            "reader_events": self.demand is not None,
            "runtime_events": self.by_runtime,
        }

    def say(self, what: str, error: Unavailable) -> None:
        """Once, when it begins to be missing."""
        hint = "changes are noticed later, by looking, until this agent is started again"
        self.log.warning(what, error=str(error), hint=hint)

    def close(self) -> None:
        for one in (self.cgroups, self.demand):
            if one is not None:
                one.close()
