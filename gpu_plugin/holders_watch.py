# SPDX-License-Identifier: Apache-2.0
"""Asks podresources on a tick who holds which units, tells the ledger, and has allocations cleaned
up that nobody holds.

Each outside thing has one worker lane with a limit. Decides nothing: `ledger` and `cleanup` do.
Knows no driver and no rule.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import trio

from agents.errors import Unavailable
from agents.logs import Logger
from agents.podresources import PodDevices, PodResources
from agents.threads import Worker
from gpu_plugin import holders
from gpu_plugin.carriers import home_of
from gpu_plugin.cleanup import Cleaner, mounted_names
from gpu_plugin.identity import Allocations
from gpu_plugin.ledger import Ledger, held_by
from gpu_plugin.metrics import Counters


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. `exact_s` instead of `look_s` where the answer decides what is offered."""

    look_s: float = 4.0
    exact_s: float = 1.0
    limit_s: float = 5.0
    cleanup_s: float = 60.0
    cleanup_limit_s: float = 30.0
    cleanup_grace_s: float = 600.0


class HoldersWatch:
    """`pods` is what podresources listed last; None: it has not answered, or does not any more.
    `asked` is set after the first attempt. `ours` are the names of all our resources.
    """

    def __init__(
        self,
        podresources: PodResources,
        ledger: Ledger,
        allocations: Allocations,
        timing: Timing,
        *,
        ours: Collection[str],
        proc: Path,
        counters: Counters,
        log: Logger,
    ) -> None:
        self._podresources, self._ledger, self._timing = podresources, ledger, timing
        self._ours, self._proc, self._directory = ours, proc, allocations.containers
        self._counters, self._log = counters, log
        self._cleaner = Cleaner(allocations, proc, grace_s=timing.cleanup_grace_s)
        self._kubelet = Worker("podresources")
        self._cleaning = Worker("the clean-up of allocations")
        self._said_unknown = False
        self.pods: tuple[PodDevices, ...] | None = None
        self.asked = trio.Event()

    async def run(self, changed: Callable[[], None], *, exact: bool) -> None:
        """Never returns; calls `changed` when another pod holds units, or other units."""
        cleanup_due = trio.current_time()
        pace_s = self._timing.look_s
        if exact:
            pace_s = min(pace_s, self._timing.exact_s)
        while True:
            before = self.pods
            await self._look()
            if self.pods != before:
                changed()
            self.asked.set()
            if self.pods and not before:
                # After a reboot the kubelet answers before it lists, and there may be much to mend.
                cleanup_due = trio.current_time()
            if trio.current_time() >= cleanup_due and self.pods is not None:
                cleanup_due = trio.current_time() + self._timing.cleanup_s
                await self._clean_up(self.pods)
            await trio.sleep(pace_s)

    async def _look(self) -> None:
        try:
            self.pods = await self._kubelet.call(self._ask, timeout_s=self._timing.limit_s)
        except Unavailable as error:
            # Said once: the text of a connection that fails changes with every attempt.
            if not self._said_unknown:
                self._log.warning("who holds which units is unknown", error=str(error))
            self.pods, self._said_unknown = None, True
        else:
            if self._said_unknown:
                self._log.info("who holds which units is known again")
            self._said_unknown = False

    def _ask(self) -> tuple[PodDevices, ...]:
        """Blocks."""
        asked_at = time.monotonic()
        pods = self._podresources.list()
        self._ledger.settle(held_by(pods, self._ours), asked_at, self._carried)
        return pods

    def _carried(self, names: frozenset[str]) -> set[str] | None:
        try:
            return mounted_names(self._proc, home_of(self._directory), names)
        except OSError:
            return None

    async def _clean_up(self, pods: tuple[PodDevices, ...]) -> None:
        # Other plugins' ids may have our form: ours are those of our resources.
        held = holders.held_sets(pods)
        ours = {name: sets for name, sets in held.items() if name in self._ours}
        try:
            done = await self._cleaning.call(
                lambda: self._cleaner.sweep(ours, time.monotonic()),
                timeout_s=self._timing.cleanup_limit_s,
            )
        except (Unavailable, OSError) as error:
            self._log.warning("allocations not cleaned up", error=str(error))
            return
        if done.removed:
            self._log.info("allocations cleaned up", count=len(done.removed))
        if done.mended:
            self._log.warning("allocations mended", count=len(done.mended))
        self._counters.set_mismatches(self._ours, done.mismatches)
