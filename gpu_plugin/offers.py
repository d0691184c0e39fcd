# SPDX-License-Identifier: Apache-2.0
"""What every resource offers now, published for the plugins: the plan, less what is withheld.

A change of what is in use changes the offers at most once a second: the kubelet takes every list
whole and writes its checkpoint. Knows no driver and no kubelet; decides nothing, `capacity` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import trio

from agents.published import Published
from gpu_plugin import capacity
from gpu_plugin.ledger import Ledger
from gpu_plugin.resources import Resource

#: Between two changes of what is withheld.
PAUSE_S = 1.0
_MOMENT_S = 0.25
#: The kubelet tells the API server at this rhythm; so long may the scheduler believe old numbers.
NODE_STATUS_S = 10.0


class Offers:
    """Written from the event loop; `refresh_soon` may be called from any thread."""

    def __init__(self, empty: Sequence[Resource]) -> None:
        self.published = {resource.name: Published(resource) for resource in empty}
        self.ledger = Ledger(self.refresh_soon)
        self._plan: tuple[Resource, ...] = ()
        self._changed_at: dict[str, float] = {}
        self._asked, self._untold = trio.Event(), trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None

    @property
    def resources(self) -> tuple[Resource, ...]:
        """As they are offered, in the order of the plan; none before the first plan."""
        return tuple(self.published[resource.name].value for resource in self._plan)

    def free(self) -> dict[str, Mapping[str, int] | None]:
        """Units that can be given out now, by resource and device; None: unknown."""
        in_use = self.ledger.in_use
        return {one.name: capacity.free(one, in_use) for one in self.resources}

    def set(self, plan: Sequence[Resource]) -> None:
        """Offer another plan, at once; one that is the same waits its turn, as other pods do."""
        if tuple(plan) == self._plan:
            self._ask()
            return
        self._plan = tuple(plan)
        self._publish()

    def is_new(self, name: str) -> bool:
        """Whether the number of units that are offered changed so recently that the scheduler may
        not know it. From any thread.
        """
        changed = self._changed_at.get(name)
        return changed is not None and time.monotonic() - changed < NODE_STATUS_S

    def refresh_soon(self) -> None:
        """What is in use has changed."""
        if self._token is None:
            return  # nobody listens yet; the first plan takes it into account
        try:
            self._token.run_sync_soon(self._ask, idempotent=True)
        except trio.RunFinishedError:
            pass  # the agent ends

    async def run(self, told: Callable[[], None]) -> None:
        """Never returns. `told` is called a moment after each change of what is in use."""
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell, told)
            while True:
                await self._asked.wait()
                self._asked = trio.Event()
                if self._publish():
                    await trio.sleep(PAUSE_S)

    async def _tell(self, told: Callable[[], None]) -> None:
        while True:
            await self._untold.wait()
            # Pods come together: what is shown to people need not be made beside each Allocate.
            await trio.sleep(_MOMENT_S)
            self._untold = trio.Event()
            told()

    def _ask(self) -> None:
        self._asked.set()
        self._untold.set()

    def _publish(self) -> bool:
        """Whether any list is another now."""
        in_use = self.ledger.in_use
        changed = False
        for resource in self._plan:
            published = self.published[resource.name]
            before, now = published.value, capacity.offered(resource, in_use)
            if now == before:
                continue
            if _shown(now) != _shown(before):
                self._changed_at[resource.name] = time.monotonic()
                changed = True
            published.set(now)
        return changed


def _shown(resource: Resource) -> object:
    """What the kubelet is told of: equal means that it is sent nothing."""
    return [
        (served.device.uuid, served.units, served.unhealthy is None, served.withheld)
        for served in resource.devices
    ]
