# SPDX-License-Identifier: Apache-2.0
"""Who uses what, may have what, and is shown what: puts the parts together that go through each
round of the driver's readings.

Whose the processes are (`accounts`, with the names from `names_watch`) → what is done about it
(`enforcer`) → what containers, metrics and `/status.json` show of it (`container_watch`). Decides
nothing itself. Knows no plan of units and no plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from agents.agent import AgentContext
from agents.containers import Containers
from agents.podresources import PodDevices
from gpu_plugin import container_metrics, enforcing
from gpu_plugin.accounting import Accounting
from gpu_plugin.accounting_watch import Accountant, Timing
from gpu_plugin.accounts import Accounts
from gpu_plugin.config import GpuPluginConfig
from gpu_plugin.container_watch import ContainerWatch
from gpu_plugin.driver_watch import DriverWatch
from gpu_plugin.enforcement_config import Mode
from gpu_plugin.identity import Allocations
from gpu_plugin.metrics import Counters
from gpu_plugin.names_watch import NamesWatch
from gpu_plugin.nvml import Nvml
from gpu_plugin.readings import Readings
from gpu_plugin.verdicts import Act, Verdict


def timing_of(section: GpuPluginConfig) -> Timing:
    """How often it is looked."""
    pace = section.enforcement
    return Timing(held_s=pace.period, short_s=pace.pressure_period)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where it is learned: from the driver, from the runtime, from what was given out. `pods` is
    what podresources listed last (None: no answer); `held` says whether anybody holds units.
    """

    nvml: Nvml
    watch: DriverWatch
    containers: Containers
    allocations: Allocations
    pods: Callable[[], tuple[PodDevices, ...] | None]
    held: Callable[[], bool]


class MemoryUse:
    """`told` is called after every scan. `metrics` belongs into a guarded collector."""

    def __init__(
        self,
        context: AgentContext,
        section: GpuPluginConfig,
        sources: Sources,
        timing: Timing,
        *,
        told: Callable[[], None],
        counters: Counters,
    ) -> None:
        self._tell, watch = told, sources.watch
        self._shown = ContainerWatch(
            sources.allocations.containers,
            context.host.proc,
            inventory=lambda: watch.inventory,
            tell_pod=context.tell_pod,
            observing=section.enforcement.mode is Mode.OBSERVE,
            registry=context.registry,
            log=context.log,
        )
        self.metrics = container_metrics.collecting(self._shown.shown, context.more_metrics.set)
        accounts = Accounts(context.host, sources.allocations)
        self._names = NamesWatch(sources.containers, sources.pods, accounts.told, log=context.log)
        self._accountant = Accountant(
            accounts.account,
            timing,
            held=sources.held,
            introduce=self._names.introduce,
            counters=counters,
            log=context.log,
        )
        self._enforcer = enforcing.enforcer(context, section, sources.nvml, watch)
        self._enforcer.told = self._told
        self._enforcer.before_end = self._shown.before_end
        self._enforcer.short = self._accountant.short_of_memory
        self._accountant.subscribe(self._names.scanned)
        self._accountant.subscribe(self._enforcer.scanned)

    async def run(self) -> None:
        """Never returns."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._names.run)
            nursery.start_soon(self._shown.run)
            nursery.start_soon(self._enforcer.run)

    async def scan(self, readings: Readings) -> None:
        """One round, whole: account for it, act on it, show it."""
        await self._accountant.scan(readings)

    def pace_s(self) -> float | None:
        """Seconds from one round to the next; None: nothing calls for more than the usual."""
        return self._accountant.pace_s()

    @property
    def problems(self) -> Sequence[str]:
        """What an operator has to look at."""
        of_agent = (self._accountant.problem, self._enforcer.problem)
        return [*self._accountant.latest.value.doubts, *filter(None, of_agent)]

    def document(self) -> dict[str, Any]:
        """For `/status.json`."""
        return self._shown.shown().document()

    def _told(
        self, accounting: Accounting, verdicts: Sequence[Verdict], acts: Sequence[Act]
    ) -> None:
        self._shown.scanned(accounting, verdicts, acts)
        self._tell()
