# SPDX-License-Identifier: Apache-2.0
"""Asks the container runtime what its containers are called, when somebody uses a GPU whom it does
not know, and joins that with what the kubelet lists.

Knows no driver. Without an answer there are no names from there, and everything else goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import trio

from agents.containers import Container, Containers
from agents.errors import Unavailable
from agents.logs import Logger
from agents.podresources import PodDevices
from agents.published import Published
from agents.threads import Worker
from gpu_plugin.accounting import Accounting
from gpu_plugin.container_names import Told, told


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: `again_s` between two questions while a container is not known, `seldom_s` while all
    are; `limit_s` for an answer, `first_s` while a scan waits for it.
    """

    again_s: float = 2.0
    seldom_s: float = 60.0
    limit_s: float = 5.0
    first_s: float = 2.0


class NamesWatch:
    """Publishes into `told`. `pods` is what podresources listed last (None: no answer)."""

    def __init__(
        self,
        containers: Containers,
        pods: Callable[[], tuple[PodDevices, ...] | None],
        told: Published[Told],
        timing: Timing | None = None,
        *,
        log: Logger,
    ) -> None:
        self._containers, self._pods, self._told = containers, pods, told
        self._timing, self._log = timing or Timing(), log
        self._worker = Worker("the container runtime")
        self._wake = trio.Event()
        self._asked_at = -math.inf
        self._met: frozenset[str] = frozenset()
        self._known: tuple[Container, ...] | None = None
        self._joined: tuple[PodDevices, ...] | None = ()
        self._said_problem = False

    async def introduce(self, accounting: Accounting) -> bool:
        """Ask for those that were never asked for, at once: what a container may use is in its
        pod's annotations, and who looks at it first must not take it for absent. Whether there is
        an answer to take into account.
        """
        there = frozenset(one.key.container_id for one in accounting.containers)
        strangers, self._met = there - self._met, there
        if strangers <= self._told.value.by_id.keys():
            return False
        await self._refresh(self._timing.first_s)
        return True

    async def scanned(self, accounting: Accounting) -> None:
        """Whoever is in it is to be known by name."""
        names = self._told.value.by_id
        strangers = any(one.key.container_id not in names for one in accounting.containers)
        pause_s = self._timing.again_s if strangers else self._timing.seldom_s
        due = accounting.containers and trio.current_time() >= self._asked_at + pause_s
        if due or self._pods() is not self._joined:
            self._wake.set()

    async def run(self) -> None:
        """Never returns."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            new_pods = self._pods() is not self._joined
            again = trio.current_time() >= self._asked_at + self._timing.again_s
            await self._refresh(self._timing.limit_s if again or not new_pods else None)

    async def _refresh(self, limit_s: float | None) -> None:
        """None: do not ask the runtime, there is only something new of the kubelet."""
        if limit_s is not None:
            self._asked_at = trio.current_time()
            await self._ask(limit_s)
        pods = self._pods()
        known, self._joined = self._known, pods
        self._told.set(await trio.to_thread.run_sync(told, known, pods))

    async def _ask(self, limit_s: float) -> None:
        try:
            self._known = await self._worker.call(self._containers.list, timeout_s=limit_s)
        except Unavailable as error:
            if not self._said_problem:
                self._log.info("names of containers are unknown", error=str(error))
            self._said_problem = True  # names do not change: those that it told stay
        else:
            self._said_problem = False
