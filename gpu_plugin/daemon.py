# SPDX-License-Identifier: Apache-2.0
"""The running agent: looks at the driver and at the kubelet on a tick, and publishes what it
learned.

Three tasks beside the plugins' own: `_watch_driver` (inventory → plan → offers, usage),
`_watch_holders` (podresources → who holds what, clean-up) and `_watch_sockets` (wakes the plugins).
Each outside thing has one worker lane with a limit, so that a hanging driver stops neither the
kubelet's calls nor a scrape. Decides nothing itself: `resources`, `placement` and `cleanup` do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import trio

from agents.agent import AgentContext
from agents.errors import Unavailable
from agents.podresources import KubeletPodResources, PodDevices, PodResources
from agents.published import Published
from agents.threads import Worker
from agents.watch import watching
from gpu_plugin import changes, metrics, observation, resources, status
from gpu_plugin.cleanup import Cleaner
from gpu_plugin.config import GpuPluginConfig, ResourceRule
from gpu_plugin.identity import Allocations
from gpu_plugin.inventory import devices_of
from gpu_plugin.nvml import Nvml
from gpu_plugin.resources import Plan, Resource
from gpu_plugin.server import PluginServer
from gpu_plugin.service import DevicePlugin, Streams
from gpu_plugin.source import open_nvml
from gpu_plugin.status import Usage

T = TypeVar("T")

_TRY_SIMULATED = "set gpu_plugin.simulate to try things out without a GPU"


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. `sockets_s` is how soon a kubelet restart is seen when inotify does not tell."""

    usage_s: float = 2.0
    inventory_s: float = 10.0
    driver_limit_s: float = 10.0
    holders_s: float = 4.0
    holders_limit_s: float = 5.0
    first_holders_s: float = 1.0
    sockets_s: float = 0.4
    cleanup_s: float = 60.0
    cleanup_limit_s: float = 30.0
    cleanup_grace_s: float = 600.0


async def run(context: AgentContext) -> None:
    """The agent, until it is cancelled."""
    section = context.section
    assert isinstance(section, GpuPluginConfig)
    nvml = open_nvml(section, context.host, context.node.state_dir / "gpu")
    kubelet = context.node.kubelet_dir / "pod-resources" / "kubelet.sock"
    podresources = KubeletPodResources(kubelet, timeout_s=2.0)
    try:
        await GpuAgent(context, section, nvml, podresources).run()
    finally:
        podresources.close()
        with trio.move_on_after(1.0, shield=True):  # a driver that hangs must not keep us here
            await trio.to_thread.run_sync(nvml.close, abandon_on_cancel=True)


@dataclass(slots=True)
class _Plugin:
    """One resource on its way to the kubelet."""

    offered: Published[Resource]
    server: PluginServer
    started: bool = False

    @property
    def problem(self) -> str | None:
        return self.server.problem if self.started else "nothing to offer on this machine"


@dataclass(slots=True)
class _Seen:
    """What was learned last; None: nothing yet, or not any more.

    `served` says which resource a device served first: there it stays while this process lives.
    """

    inventory: observation.Inventory | None = None
    plan: Plan = field(default_factory=lambda: Plan((), ()))
    usage: Mapping[str, Usage] = field(default_factory=dict)
    pods: tuple[PodDevices, ...] | None = None
    served: dict[str, str] = field(default_factory=dict)
    driver_answers: bool | None = None
    driver_problem: str | None = "the GPU driver was not asked yet"
    holders_problem: str | None = None


class GpuAgent:
    """Everything that runs while the agent runs."""

    def __init__(
        self,
        context: AgentContext,
        section: GpuPluginConfig,
        nvml: Nvml,
        podresources: PodResources,
        timing: Timing | None = None,
    ) -> None:
        self._context, self._rules = context, section.resources
        self._nvml, self._podresources = nvml, podresources
        self._simulate = section.simulate
        self._timing = timing or Timing()
        self._log = context.log
        self._counters = metrics.Counters(context.registry)
        self._status = Published(status.EMPTY)
        context.registry.register(metrics.collector(lambda: self._status.value))
        self._allocations = Allocations(context.node.state_dir / "gpu")
        self._cleaner = Cleaner(
            self._allocations, context.host.proc, grace_s=self._timing.cleanup_grace_s
        )
        self._driver = Worker("the GPU driver")
        self._kubelet = Worker("podresources")
        self._cleaning = Worker("the clean-up of allocations")
        self._seen = _Seen()
        self._asked_holders = trio.Event()
        self._plugins_dir = context.node.kubelet_dir / "device-plugins"
        self._plugins = {rule.name: self._plugin(rule) for rule in self._rules}

    async def run(self) -> None:
        if not self._rules:
            self._log.info("no resources configured", hint="add gpu_plugin.resources")
            self._context.readiness.ready()
            await trio.sleep_forever()
        if self._simulate is not None:
            self._log.warning("simulated GPUs", hint=f"machine {self._simulate!r}, no real device")
        self._allocations.prepare()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_driver, nursery)
            nursery.start_soon(self._watch_holders)
            nursery.start_soon(self._watch_sockets)

    def _plugin(self, rule: ResourceRule) -> _Plugin:
        offered = Published(resources.nothing(rule))
        answers = DevicePlugin(offered, self._allocations, self._counters, Streams())
        return _Plugin(offered, PluginServer(rule.name, self._plugins_dir, answers))

    async def _watch_driver(self, nursery: trio.Nursery) -> None:
        if any(rule.select.count is not None for rule in self._rules):
            # Who holds what decides which devices a count takes; but never wait long for a kubelet.
            with trio.move_on_after(self._timing.first_holders_s):
                await self._asked_holders.wait()
        due = trio.current_time()
        while True:
            now = trio.current_time()
            if now >= due:
                due = now + self._timing.inventory_s
                await self._look_at_machine(nursery)
            if not await self._look_at_usage():
                due = now  # a device went away: see what is still there
            self._publish()
            await trio.sleep(self._timing.usage_s)

    async def _look_at_machine(self, nursery: trio.Nursery) -> None:
        found = await self._ask_driver(
            "machine", partial(observation.inventory, self._nvml, self._context.host)
        )
        if found is None:
            return
        seen = self._seen
        held = None if seen.pods is None else status.held_devices(seen.pods)
        earlier = {uuid: name for name, uuids in (held or {}).items() for uuid in uuids}
        now = resources.plan(
            self._rules, found.machine, earlier=earlier | seen.served, nodes=found.nodes
        )
        plan = resources.keep_held(now, seen.plan, found.machine, held)
        changes.say(self._log, seen.plan, plan)
        seen.inventory, seen.plan = found, plan
        seen.served = plan.serving | seen.served
        for resource in plan.resources:
            self._offer(resource, nursery)

    def _offer(self, resource: Resource, nursery: trio.Nursery) -> None:
        plugin = self._plugins[resource.name]
        if resource != plugin.offered.value:
            plugin.offered.set(resource)
        if resource.devices and not plugin.started:
            plugin.started = True
            nursery.start_soon(plugin.server.run)

    async def _look_at_usage(self) -> bool:
        """False when a device did not answer."""
        if self._seen.inventory is None:
            return True
        uuids = [device.uuid for device in devices_of(self._seen.inventory.machine)]
        found = await self._ask_driver(
            "usage", partial(observation.usage, self._nvml, uuids, self._count_error)
        )
        self._seen.usage = found or {}
        return found is not None and len(found) == len(uuids)

    async def _ask_driver(self, call: str, question: Callable[[], T]) -> T | None:
        """None when there is no answer: then the reason is the agent's, and all goes on as it
        was.
        """
        try:
            answer = await self._driver.call(question, timeout_s=self._timing.driver_limit_s)
        except Unavailable as error:
            self._count_error(call)
            seen = self._seen
            problem = f"{error}; or {_TRY_SIMULATED}" if seen.inventory is None else str(error)
            # Said once: for how long it has not answered changes with every attempt.
            if seen.driver_answers is not False:
                self._log.warning("GPU driver unavailable", error=problem)
            seen.driver_answers, seen.driver_problem = False, problem
            return None
        if self._seen.driver_answers is False:
            self._log.info("GPU driver answers again")
        self._seen.driver_answers, self._seen.driver_problem = True, None
        return answer

    def _count_error(self, call: str) -> None:
        self._counters.nvml_errors.labels(call).inc()

    async def _watch_holders(self) -> None:
        cleanup_due = trio.current_time() + self._timing.cleanup_s
        while True:
            await self._look_at_holders()
            self._asked_holders.set()
            if trio.current_time() >= cleanup_due and self._seen.pods is not None:
                cleanup_due = trio.current_time() + self._timing.cleanup_s
                await self._clean_up(self._seen.pods)
            await trio.sleep(self._timing.holders_s)

    async def _look_at_holders(self) -> None:
        before, problem = self._seen.pods, None
        try:
            self._seen.pods = await self._kubelet.call(
                self._podresources.list, timeout_s=self._timing.holders_limit_s
            )
        except Unavailable as error:
            self._seen.pods, problem = None, str(error)
        # Said once: the text of a connection that fails changes with every attempt.
        if (problem is None) != (self._seen.holders_problem is None):
            if problem is not None:
                self._log.warning("who holds which units is unknown", error=problem)
            else:
                self._log.info("who holds which units is known again")
        self._seen.holders_problem = problem
        if self._seen.pods != before:
            self._publish()

    async def _clean_up(self, pods: tuple[PodDevices, ...]) -> None:
        held = status.held_sets(pods)
        try:
            removed = await self._cleaning.call(
                lambda: self._cleaner.sweep(held, time.monotonic()),
                timeout_s=self._timing.cleanup_limit_s,
            )
        except (Unavailable, OSError) as error:
            self._log.warning("allocations not cleaned up", error=str(error))
            return
        if removed:
            self._log.info("allocations cleaned up", count=len(removed))

    async def _watch_sockets(self) -> None:
        before: list[str | None] = []
        async with watching([self._plugins_dir], poll_s=self._timing.sockets_s) as wakeups:
            while True:
                for plugin in self._plugins.values():
                    plugin.server.poke()
                if (now := [plugin.problem for plugin in self._plugins.values()]) != before:
                    before = now
                    self._publish()
                await wakeups.wait()

    def _publish(self) -> None:
        seen = self._seen
        problems = {name: plugin.problem for name, plugin in self._plugins.items()}
        found = status.build(
            seen.inventory.machine if seen.inventory else None,
            seen.plan,
            usage=seen.usage,
            holders=None if seen.pods is None else status.holders_of(seen.pods),
            registration=problems,
        )
        self._status.set(found)
        self._context.status.set(found.document())
        reasons = [seen.driver_problem] if seen.driver_problem else []
        reasons += [
            f"{name}: {plugin.problem}"
            for name, plugin in self._plugins.items()
            if plugin.started and plugin.problem
        ]
        if reasons:
            self._context.readiness.not_ready("; ".join(reasons))
        else:
            self._context.readiness.ready()
