# SPDX-License-Identifier: Apache-2.0
"""Keep views attached: what is new at once, and everything is checked now and then.

The work in other mount namespaces is done in a worker thread, for one container at a time and never
without a limit; what somebody waits for has threads of its own. Knows no file and no limit: orders
come from `coverage`, and go back to it.
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

_WHAT = "work in a container's mount namespace"
#: How many containers can be waited for at the same time.
_AT_ONCE = 8
_INCOMPLETE = (Outcome.FAILED, Outcome.FOREIGN, Outcome.GONE)

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
        self._entering = Worker(_WHAT)
        self._wanted = trio.Event()
        self._warned: dict[str, str] = {}
        #: Whose mounts somebody is at, until this happens.
        self._at_work: dict[str, trio.Event] = {}
        self._at_once = trio.CapacityLimiter(_AT_ONCE)
        #: Called when work in a container begins, and when it ended, with whether all is attached.
        self.began: Callable[[str], None] = lambda container_id: None
        self.ended: Callable[[str, bool], None] = lambda container_id, complete: None

    async def at_once(self, container_id: str) -> bool:
        """Attach what is to be shown in this container, beside all other work; whether all is. What
        is attached already costs a look at its mounts."""
        while True:
            await self._left_alone(container_id)  # or who waits would be in the way of others
            async with self._at_once:
                if container_id not in self._at_work:
                    order = self._coverage.order_of(container_id)
                    return order is not None and await self._inject(order, Worker(_WHAT))

    async def _left_alone(self, container_id: str) -> None:
        """Wait until nobody is at this container's mounts."""
        while container_id in self._at_work:
            await self._at_work[container_id].wait()

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
                await self._inject(order, self._entering)
            if trio.current_time() - checked >= VERIFY_S:
                checked = trio.current_time()
                self._injector.keep([one.id for one in self._coverage.all()])
                for order in await self._wrong(self._coverage.orders(everything=True)):
                    await self._inject(order, self._entering)
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

    async def _inject(self, order: Order, entering: Worker) -> bool:
        """Two at once would attach everything twice. Whether everything is attached."""
        container_id = order.located.container.id
        await self._left_alone(container_id)
        done = self._at_work[container_id] = trio.Event()
        complete = False
        self.began(container_id)
        try:
            results = await self._reconciled(order, entering)
            complete = all(result.outcome not in _INCOMPLETE for result in results.values())
        finally:
            del self._at_work[container_id]
            done.set()
            self.ended(container_id, complete)
        self._counters.injected(results.values(), repair=not order.expected)
        self._log_failure(order, results)
        self._coverage.settle(order, results, beneath=self._beneath)
        return complete

    async def _reconciled(self, order: Order, entering: Worker) -> Mapping[Path, Result]:
        work: Callable[[], Mapping[Path, Result]] = partial(
            self._injector.reconcile, order.located, order.wishes
        )
        try:
            return await entering.call(work, timeout_s=_LIMIT_S)
        except Unavailable as error:
            return {w.target: Result(Outcome.FAILED, (), str(error)) for w in order.wishes}

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
