# SPDX-License-Identifier: Apache-2.0
"""The running part that answers calls: connects to the holder, hands over what arrives, and says
how it goes. For the event loop; the calls themselves are `loop`'s, containers `first_views`'.

Where it is not configured, or as long as it cannot connect, the holder answers with what the kernel
says.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio
from prometheus_client import Metric

from agents import holder_start, hostfs
from agents.agent import AgentContext
from agents.containers import Pods
from agents.errors import AgentError, Unavailable
from agents.seccomp_connection import Arrival, Replaced, SeccompConnection
from agents.seccomp_slots import Slots
from lxcfs_helper.affinity import metrics
from lxcfs_helper.affinity.answering import Answering
from lxcfs_helper.affinity.first_views import Covers, FirstViews
from lxcfs_helper.affinity.loop import Heard, Loop
from lxcfs_helper.affinity.profile_files import ProfileFiles
from lxcfs_helper.affinity.profile_keeper import LABEL, ProfileKeeper
from lxcfs_helper.affinity.status import Standing
from lxcfs_helper.affinity.tally import Tally
from lxcfs_helper.config import AffinityConfig

#: How long until a connection that failed is tried again.
_AGAIN_S = 1.0
#: How often the status follows what was counted.
_REPORT_S = 2.0
#: A thread that computes is asked so often to let others go on: calls wait for it.
_SWITCH_S = 0.0005


class Affinity:
    """`changed` is called whenever `standing` is different."""

    def __init__(self, context: AgentContext, covers: Covers, pods: Pods | None) -> None:
        self._context, self._covers, self._pods = context, covers, pods
        self._config = AffinityConfig()
        self._configured = trio.Event()
        self._views: FirstViews | None = None
        self._loop: Loop | None = None
        self._profiles: ProfileKeeper | None = None
        self._problem: str | None = None
        #: For the life of the process: the holder may look at them at any time.
        self._slots: Slots | None = None
        self.tally = Tally()
        self.changed: Callable[[], None] = lambda: None

    def configure(self, config: AffinityConfig) -> None:
        """Do so from now on."""
        if config != self._config:
            self._config = config
            before, self._configured = self._configured, trio.Event()
            before.set()

    @property
    def standing(self) -> Standing:
        """As things are now."""
        answered = frozenset() if self._views is None else frozenset(self._views.answered())
        return Standing(self._config.enabled, self._problem, answered, self._loop)

    def to_json(self) -> Mapping[str, Any]:
        """The same for the status document."""
        profiles = None if self._profiles is None else self._profiles.standing.value.to_json()
        return {**self.standing.to_json(self.tally), "profiles": profiles}

    def metrics(self) -> Iterable[Metric]:
        """The same for a scrape."""
        profiles = self._profiles
        can_start = profiles is not None and profiles.standing.value.reason is None
        return metrics.collect(self.standing, self.tally, can_start=can_start)

    def look(self) -> None:
        """Who is left out may be different now."""
        if self._views is not None:
            self._views.look()

    def began(self, container_id: str) -> None:
        """Something is to be put right in this container."""
        if self._views is not None:
            self._views.attaching(container_id)

    def ended(self, container_id: str, complete: bool) -> None:
        """It was, as far as it can be."""
        if self._views is not None:
            self._views.attached(container_id, complete=complete)

    async def run(self) -> None:
        """Never returns."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._anew, lambda config: config.enabled, self._serve)
            nursery.start_soon(
                self._anew, lambda config: (config.enabled, config.profiles), self._keep_profiles
            )

    async def _anew(
        self, part: Callable[[AffinityConfig], object], work: Callable[[], Awaitable[None]]
    ) -> None:
        """Do this work, and again whenever this part of the configuration is another one."""
        while True:
            current = part(self._config)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work)
                while part(self._config) == current:
                    await self._configured.wait()
                nursery.cancel_scope.cancel()

    async def _keep_profiles(self) -> None:
        if not self._config.enabled:
            self._profiles = None
            self._context.labels.set({LABEL: None})
            return
        node = self._context.node
        self._profiles = ProfileKeeper(
            ProfileFiles(node.kubelet_dir),
            hostfs.seccomp_socket(node.run_dir),
            self._config.profiles,
            self._context.log,
            self._context.labels,
        )
        await self._profiles.run()

    async def _serve(self) -> None:
        if not self._config.enabled:
            self._say(None)
            return
        try:
            answering = Answering(self._context.host)
        except Unavailable as error:
            self._say(error)
            await trio.sleep_forever()
        sys.setswitchinterval(_SWITCH_S)
        with suppress(OSError):  # else the first container tries again
            await trio.to_thread.run_sync(self._context.namespaces.prepare)
        self._slots = self._slots or Slots()
        connection = _Connection(self._context, self._slots)
        async with trio.open_nursery() as nursery:
            heard = self._heard(nursery, connection)
            loop = Loop(answering, connection.slots, self.tally, heard, lambda: self._config.hold)
            self._loop, self._views = loop, FirstViews(loop, self._covers, self._pods)
            nursery.start_soon(self._report, loop)
            loop.start()
            try:
                await connection.keep(loop, self._say)
            finally:
                self._loop = self._views = None
                loop.stop()

    async def _report(self, loop: Loop) -> None:
        """Calls change what is told too."""
        told: object = None
        while True:
            await trio.sleep(_REPORT_S)
            now = self.tally.last_at, loop.descriptors
            if now != told:
                told = now
                self.changed()

    def _heard(self, nursery: trio.Nursery, connection: _Connection) -> Heard:
        """What the answering thread says, said in the event loop."""
        token = trio.lowlevel.current_trio_token()

        def post(function: Callable[[], None]) -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(function)

        def arrived(arrival: Arrival) -> None:
            if self._views is not None:
                nursery.start_soon(self._take, arrival)

        def ended(container_id: str) -> None:
            if self._views is not None:
                self._views.forget(container_id)

        return Heard(
            lambda arrival: post(lambda: arrived(arrival)),
            lambda container_id: post(lambda: ended(container_id)),
            lambda error: post(lambda: connection.lost(error)),
            lambda error: post(lambda: nursery.start_soon(_fail, error)),
        )

    async def _take(self, arrival: Arrival) -> None:
        if self._views is not None:
            await self._views.take(arrival)
            self.changed()

    def _say(self, error: AgentError | None) -> None:
        """One line in the log until it works again."""
        problem = None if error is None else str(error)
        if problem is not None and self._problem is None:
            self._context.log.warning("calls of containers not answered", error=problem)
        elif problem is None and self._problem is not None:
            self._context.log.info("calls of containers answered again")
        if problem != self._problem:
            self._problem = problem
            self.changed()


async def _fail(error: Exception) -> None:
    """A bug in the answering thread ends the agent: the holder answers until the next one."""
    raise error


class _Connection:
    """Keeps one to the holder, which it starts if need be."""

    def __init__(self, context: AgentContext, slots: Slots) -> None:
        self._context, self.slots = context, slots
        self._lost = trio.Event()
        self._error: AgentError | None = None

    def lost(self, error: AgentError) -> None:
        """It is gone."""
        self._error = error
        self._lost.set()

    async def keep(self, loop: Loop, say: Callable[[AgentError | None], None]) -> None:
        """Never returns. Says whether there is one."""
        while True:
            self._lost = trio.Event()
            try:
                await self._connect(loop)
            except (AgentError, OSError) as error:
                say(error if isinstance(error, AgentError) else Unavailable(str(error)))
                await trio.sleep(_AGAIN_S)
                continue
            self._error = None
            say(None)
            await self._lost.wait()

    async def _connect(self, loop: Loop) -> None:
        """An agent that was replaced takes over again only when the other one has left."""
        path = await self._holder()
        connection = SeccompConnection(path, self.slots)
        replace = not isinstance(self._error, Replaced)
        copies = loop.copies()
        try:
            await trio.to_thread.run_sync(lambda: connection.connect(copies, replace=replace))
        finally:
            for copy in copies:
                os.close(copy.descriptor)
        loop.connected(connection)

    async def _holder(self) -> Path:
        node = self._context.node
        async with trio.open_nursery() as nursery:
            client = await holder_start.find_or_start(
                nursery, node.run_dir, self._context.host, start=node.holder.start
            )
            client.close()
            nursery.cancel_scope.cancel()
        return holder_start.socket_path(node.run_dir)
