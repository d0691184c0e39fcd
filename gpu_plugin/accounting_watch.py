# SPDX-License-Identifier: Apache-2.0
"""Turns each round of readings into an `Accounting`, publishes it, and hands it to those who act on
it, one after the other.

Decides nothing about containers, and asks the driver nothing: `driver_watch` does, at the pace that
is told from here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from agents.errors import Unavailable
from agents.logs import Logger
from agents.published import Published
from agents.threads import Worker
from gpu_plugin.accounting import EMPTY, Accounting
from gpu_plugin.metrics import Counters
from gpu_plugin.readings import Readings

#: Gets every scan, in the event loop, before the next one begins: it must be quick, and do in a
#: worker with a limit what may block.
Scanned = Callable[[Accounting], Awaitable[None]]


async def _nobody_new(accounting: Accounting) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds between two scans: while units are held or a process is on a device, and while a
    device is short of memory. `limit_s` is for the work of one scan, without the driver's time.
    """

    held_s: float = 1.0
    short_s: float = 0.1
    limit_s: float = 10.0


class Accountant:
    """`account` makes the value of one scan (`accounts.Accounts.account`); it blocks, and runs in a
    worker thread. `held` says whether anybody holds units; `introduce` learns about containers that
    are new, and says whether there is something to account for anew. `latest` is the last scan, for
    readers that never wait; `problem` says why there was none after it (None: nothing is wrong).
    """

    def __init__(
        self,
        account: Callable[[Readings], Accounting],
        timing: Timing | None = None,
        *,
        held: Callable[[], bool] = lambda: True,
        introduce: Callable[[Accounting], Awaitable[bool]] = _nobody_new,
        counters: Counters,
        log: Logger,
    ) -> None:
        self._account, self._timing, self._held = account, timing or Timing(), held
        self._introduce = introduce
        self._counters, self._log = counters, log
        self._worker = Worker("procfs, for the accounting of GPU processes,")
        self._subscribers: list[Scanned] = []
        self._short: frozenset[str] = frozenset()
        self.problem: str | None = None
        self._said_doubts: frozenset[str] = frozenset()
        self.latest: Published[Accounting] = Published(EMPTY)

    def subscribe(self, scanned: Scanned) -> None:
        """Called for every scan from now on, after those who subscribed before."""
        self._subscribers.append(scanned)

    def short_of_memory(self, devices: Collection[str]) -> None:
        """Devices that are to be looked at more often, until this is said anew without them."""
        self._short = frozenset(devices)

    def pace_s(self) -> float | None:
        """Seconds from one scan to the next; None: nothing calls for more than the usual."""
        if self._short:
            return self._timing.short_s
        latest = self.latest.value
        in_use = latest.containers or latest.host or latest.unknown
        return self._timing.held_s if in_use or self._held() else None

    async def scan(self, readings: Readings) -> None:
        """Account for what the driver just told, and tell everybody. Where that cannot be done
        nobody is told anything, and it is said once.
        """
        try:
            accounting = await self._scan(readings)
            if await self._introduce(accounting):
                accounting = await self._scan(readings)
        except (Unavailable, OSError) as error:
            if self.problem is None:
                self._log.warning("GPU processes not accounted for", error=str(error))
            self.problem = f"GPU processes are not accounted for: {error}"
            return
        if self.problem is not None:
            self._log.info("GPU processes accounted for again")
        self.problem = None
        self._say_doubts(frozenset(accounting.doubts))
        self.latest.set(accounting)
        for scanned in self._subscribers:
            await scanned(accounting)

    async def _scan(self, readings: Readings) -> Accounting:
        return await self._worker.call(
            lambda: self._timed(readings), timeout_s=self._timing.limit_s
        )

    def _timed(self, readings: Readings) -> Accounting:
        with self._counters.scan_seconds.time():
            return self._account(readings)

    def _say_doubts(self, doubts: frozenset[str]) -> None:
        for doubt in sorted(doubts - self._said_doubts):
            self._log.warning("accounting in doubt", reason=doubt)
        self._said_doubts = doubts
