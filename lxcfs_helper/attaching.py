# SPDX-License-Identifier: Apache-2.0
"""Keep views attached: what is new at once, and everything is checked now and then.

The work in other mount namespaces is done in a worker thread, for one container at a time and never
without a limit. Knows no file and no limit: orders come from `coverage`, and go back to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import trio

from agents.errors import Unavailable
from agents.logs import Logger
from agents.threads import Worker
from lxcfs_helper.coverage import Coverage, Order
from lxcfs_helper.inject import Injector, Outcome, Result
from lxcfs_helper.metrics import Counters

#: How often every target is checked, whether or not anything seems to have changed.
VERIFY_S = 15.0

#: One container has a dozen targets, each bounded by the namespace process.
_LIMIT_S = 60.0


class Attaching:
    """`beneath`: a mount that is replaced leaves nothing stacked."""

    def __init__(
        self,
        coverage: Coverage,
        injector: Injector,
        counters: Counters,
        log: Logger,
        *,
        beneath: bool,
    ) -> None:
        self._coverage = coverage
        self._injector = injector
        self._counters = counters
        self._log = log
        self._beneath = beneath
        self._entering = Worker("work in a container's mount namespace")
        self._wanted = trio.Event()
        self._warned: dict[str, str] = {}

    def look(self) -> None:
        """There may be something new to attach."""
        if any(one.pending for one in self._coverage.all()):
            self._wanted.set()

    async def keep(self, settled: Callable[[], None]) -> None:
        """Never returns. `settled` is called whenever everything is done for now."""
        checked = -VERIFY_S
        while True:
            self._wanted = trio.Event()
            for order in self._coverage.orders():
                await self._inject(order)
            if trio.current_time() - checked >= VERIFY_S:
                checked = trio.current_time()
                self._injector.keep([one.id for one in self._coverage.all()])
                for order in await self._wrong(self._coverage.orders(everything=True)):
                    await self._inject(order)
            settled()
            with trio.move_on_after(VERIFY_S):
                await self._wanted.wait()

    async def _wrong(self, orders: Sequence[Order]) -> Sequence[Order]:
        """Those containers whose mounts are not what they were when all was right. One call for
        all: it only reads, and waking a thread for each would cost more than that."""

        def wrong() -> list[Order]:
            return [one for one in orders if not self._injector.stands(one.located, one.wishes)]

        try:
            return await self._entering.call(wrong, timeout_s=_LIMIT_S)
        except Unavailable as error:
            self._log.warning("views not checked", error=str(error))
            return ()

    async def _inject(self, order: Order) -> None:
        work: Callable[[], Mapping[Path, Result]] = partial(
            self._injector.reconcile, order.located, order.wishes
        )
        try:
            results = await self._entering.call(work, timeout_s=_LIMIT_S)
        except Unavailable as error:
            results = {w.target: Result(Outcome.FAILED, (), str(error)) for w in order.wishes}
        self._counters.injected(results.values(), repair=not order.expected)
        self._log_failure(order, results)
        self._coverage.settle(order, results, beneath=self._beneath)

    def _log_failure(self, order: Order, results: Mapping[Path, Result]) -> None:
        """One line when a container's views cannot be attached, not one for every try."""
        container = order.located.container
        reasons = {result.reason for result in results.values() if result.reason}
        reason = "; ".join(sorted(reasons))
        if reason and self._warned.get(container.id) != reason:
            self._log.warning(
                "views not attached",
                pod=f"{container.pod.namespace}/{container.pod.name}",
                container=container.name,
                pid=order.located.process.pid,
                error=reason,
            )
        if reason:
            self._warned[container.id] = reason
        else:
            self._warned.pop(container.id, None)
