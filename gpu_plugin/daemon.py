# SPDX-License-Identifier: Apache-2.0
"""The running agent: looks at the driver and at the kubelet on a tick, and publishes what it
learned.

Three tasks beside the plugins' own: the `DriverWatch` (machine, usage, health), the `HoldersWatch`
(podresources → who holds what, clean-up) and `_watch_sockets` (wakes the plugins). What the first
two learn becomes a plan in `_update`, and what is known at all a status in `_publish`. Each round
of the driver's readings goes through `MemoryUse`.

Decides nothing itself. Neither watch makes anybody wait for a driver or a kubelet that hangs.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field, replace
from functools import partial

import trio

from agents.agent import AgentContext, Status
from agents.containers import Containers
from agents.cri import CriContainers
from agents.podresources import KubeletPodResources, PodResources
from agents.published import Published
from agents.watch import watching
from gpu_plugin import (
    accounting_watch,
    changes,
    driver_watch,
    holders,
    holders_watch,
    ledger,
    memory_use,
    metrics,
    node_annotation,
    resources,
    status,
)
from gpu_plugin.config import GpuPluginConfig
from gpu_plugin.driver_watch import DriverWatch
from gpu_plugin.holders_watch import HoldersWatch
from gpu_plugin.identity import Allocations
from gpu_plugin.measured import MeasuredNvml
from gpu_plugin.memory_use import MemoryUse, Sources
from gpu_plugin.nvml import Nvml
from gpu_plugin.offers import Offers
from gpu_plugin.planner import Planner
from gpu_plugin.server import PluginServer
from gpu_plugin.service import DevicePlugin, Streams
from gpu_plugin.source import open_nvml
from gpu_plugin.status import NodeStatus

#: So long (seconds) may a busy thread keep a call of the kubelet from going on; Python's own 5 ms,
#: several times in a call, are more than the whole call takes.
_SWITCH_S = 0.0005
_TRY_SIMULATED = "set gpu_plugin.simulate to try things out without a GPU"


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. `sockets_s` is how soon a kubelet restart is seen when inotify does not tell."""

    driver: driver_watch.Timing = field(default_factory=driver_watch.Timing)
    holders: holders_watch.Timing = field(default_factory=holders_watch.Timing)
    accounting: accounting_watch.Timing = field(default_factory=accounting_watch.Timing)
    first_holders_s: float = 1.0
    sockets_s: float = 1.0


async def run(context: AgentContext) -> None:
    """The agent, until it is cancelled."""
    section = context.section
    assert isinstance(section, GpuPluginConfig)
    sys.setswitchinterval(_SWITCH_S)
    nvml = open_nvml(section, context.host, context.node.state_dir / "gpu")
    kubelet = context.node.kubelet_dir / "pod-resources" / "kubelet.sock"
    podresources = KubeletPodResources(kubelet, timeout_s=2.0)
    containers = CriContainers(context.node.cri_socket)
    try:
        await GpuAgent(context, section, nvml, podresources, containers).run()
    finally:
        podresources.close()
        containers.close()
        with trio.move_on_after(1.0, shield=True):  # a driver that hangs must not keep us here
            await trio.to_thread.run_sync(nvml.close, abandon_on_cancel=True)


@dataclass(slots=True)
class _Plugin:
    """One resource on its way to the kubelet."""

    server: PluginServer
    started: bool = False

    @property
    def problem(self) -> str | None:
        return self.server.problem if self.started else "nothing to offer on this machine"


class GpuAgent:
    """Everything that runs while the agent runs."""

    def __init__(
        self,
        context: AgentContext,
        section: GpuPluginConfig,
        nvml: Nvml,
        podresources: PodResources,
        containers: Containers,
        timing: Timing | None = None,
    ) -> None:
        self._context, self._rules = context, section.resources
        self._container = section.container
        self._exact = any(rule.blocks or rule.honest_capacity for rule in self._rules)
        self._simulate = section.simulate
        self._timing = timing or Timing(accounting=memory_use.timing_of(section))
        self._log = context.log
        self._counters = metrics.Counters(context.registry)
        self._status = Published(status.EMPTY)
        self._documented: tuple[NodeStatus, Status] = (status.EMPTY, status.EMPTY.document())
        self._allocations = Allocations(context.node.state_dir / "gpu", context.node.selinux_label)
        measured = MeasuredNvml(nvml, self._counters)
        self._watch = DriverWatch(
            measured,
            context.host,
            section.health,
            self._timing.driver,
            counters=self._counters,
            log=self._log,
        )
        self._plugins_dir = context.node.kubelet_dir / "device-plugins"
        empty = [one for rule in self._rules for one in resources.resources_of(rule)]
        self._offers = Offers(empty)
        self._plugins = {resource.name: self._plugin(resource.name) for resource in empty}
        self._holders = HoldersWatch(
            podresources,
            self._offers.ledger,
            self._allocations,
            self._timing.holders,
            ours=self._plugins,
            proc=context.host.proc,
            counters=self._counters,
            log=self._log,
        )
        self._use = MemoryUse(
            context,
            section,
            Sources(
                measured,
                self._watch,
                containers,
                self._allocations,
                pods=lambda: self._holders.pods,
                held=self._is_held,
            ),
            self._timing.accounting,
            told=self._publish_document,
            counters=self._counters,
        )
        self._watch.pace_s = self._use.pace_s
        self._was_held = False
        context.registry.register(metrics.collector(lambda: self._status.value, self._use.metrics))
        self._planner = Planner(
            self._rules, self._watch, self._offers.ledger, ours=self._plugins, log=self._log
        )

    async def run(self) -> None:
        if not self._rules:
            self._log.info("no resources configured", hint="add gpu_plugin.resources")
            self._context.readiness.ready()
            await trio.sleep_forever()
        if self._simulate is not None:
            self._log.warning("simulated GPUs", hint=f"machine {self._simulate!r}, no real device")
        self._allocations.prepare()
        await trio.to_thread.run_sync(self._restore)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._offers.run, self._use_changed)
            nursery.start_soon(self._watch_driver, nursery)
            nursery.start_soon(self._watch_holders, nursery)
            nursery.start_soon(self._watch_sockets)
            nursery.start_soon(self._use.run)

    def _plugin(self, name: str) -> _Plugin:
        answers = DevicePlugin(
            self._offers.published[name],
            self._allocations,
            self._counters,
            Streams(),
            self._container,
            self._offers.ledger,
            partial(self._offers.is_new, name),
            lambda: self._watch.inventory is not None and self._watch.inventory.limits_memory,
        )
        proc = self._context.host.proc
        return _Plugin(
            PluginServer(name, self._plugins_dir, answers, proc=proc, told=self._publish)
        )

    def _restore(self) -> None:
        """What was given out before this start. Blocks."""
        recorded = self._allocations.recorded()
        self._planner.remember(recorded)
        for allocation in recorded:
            age_s = time.time() - allocation.made_at_ns / 1e9
            found = ledger.held(allocation.resource, allocation.units)
            self._offers.ledger.restore(found, allocation.name, max(0.0, age_s))

    async def _watch_driver(self, nursery: trio.Nursery) -> None:
        if self._exact or any(rule.select.count is not None for rule in self._rules):
            # Who holds what decides which devices a count takes, and how many blocks fit; but never
            # wait long for a kubelet.
            with trio.move_on_after(self._timing.first_holders_s):
                await self._holders.asked.wait()
        await self._watch.run(partial(self._update, nursery), self._use.scan)

    async def _watch_holders(self, nursery: trio.Nursery) -> None:
        def changed() -> None:
            if self._holders.pods is not None:
                self._planner.pods_hold(self._holders.pods)
            self._update(nursery)

        await self._holders.run(changed, exact=self._exact)

    def _update(self, nursery: trio.Nursery) -> None:
        """Offer what can be offered, from what is known now."""
        if self._planner.update():
            plan = self._planner.plan
            self._offers.set(plan.resources)
            for resource in plan.resources:
                plugin = self._plugins[resource.name]
                if resource.devices and not plugin.started:
                    plugin.started = True
                    nursery.start_soon(plugin.server.run)
        self._publish()

    def _is_held(self) -> bool:
        """Whether anybody holds units, as far as is known."""
        return any((self._offers.ledger.in_use or {}).values())

    def _use_changed(self) -> None:
        was_held, self._was_held = self._was_held, self._is_held()
        if self._was_held and not was_held:
            self._watch.probe_soon()  # the pace was that of an idle node
        self._publish()

    async def _watch_sockets(self) -> None:
        self._publish()  # before a driver that hangs lets anything else be said
        async with watching([self._plugins_dir], poll_s=self._timing.sockets_s) as wakeups:
            while True:
                for plugin in self._plugins.values():
                    plugin.server.poke()
                await wakeups.wait()

    def _notes(self) -> list[str]:
        """What an operator has to look at beside rules and devices."""
        told = [plugin.server.contested for plugin in self._plugins.values()]
        if self._container.device_nodes and self._watch.inventory is not None:
            told.append(self._watch.inventory.missing_nodes)
        return [*(text for text in told if text is not None), *self._use.problems]

    def _publish(self) -> None:
        pods, watch = self._holders.pods, self._watch
        problems = {name: plugin.problem for name, plugin in self._plugins.items()}
        found = status.build(
            watch.inventory.machine if watch.inventory else None,
            replace(self._planner.plan, resources=self._offers.resources),
            usage=watch.usage,
            holders=None if pods is None else holders.holders_of(pods),
            registration=problems,
            free=self._offers.free(),
            notes=self._notes(),
            verdict=watch.health.verdict,
        )
        found = status.with_driver(
            found,
            idle=watch.idle,
            unmonitored=watch.unmonitored,
            unlisted=watch.inventory.unlisted if watch.inventory else (),
        )
        changes.say_others(
            self._log, self._status.value.problems, found.problems, self._planner.plan
        )
        changes.say_unheard(self._log, self._status.value.unmonitored, found.unmonitored)
        if found != self._status.value or not self._context.status.value:
            self._status.set(found)
            self._publish_document()
        annotations = node_annotation.node_annotations(found)
        if annotations != self._context.annotations.value:
            self._context.annotations.set(annotations)
        reasons = [self._driver_problem()] if watch.problem else []
        reasons += [
            f"{name}: {plugin.problem}"
            for name, plugin in self._plugins.items()
            if plugin.started and plugin.problem
        ]
        if reasons:
            self._context.readiness.not_ready("; ".join(reasons))
        else:
            self._context.readiness.ready()

    def _publish_document(self) -> None:
        """For `/status.json`: the node, and who uses what."""
        if self._status.value is not self._documented[0]:
            self._documented = (self._status.value, self._status.value.document())
        self._context.status.set({**self._documented[1], **self._use.document()})

    def _driver_problem(self) -> str:
        hint = f"; or {_TRY_SIMULATED}" if self._watch.inventory is None else ""
        return f"{self._watch.problem}{hint}"
