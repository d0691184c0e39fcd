# SPDX-License-Identifier: Apache-2.0
"""Looks at the driver on a tick and listens to it, and keeps what was learned last.

Judges nothing: `health` does. Knows no rule, no unit and no kubelet, and `driver_lanes` knows how a
question is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import trio

from agents.errors import AgentError, Unavailable
from agents.hostfs import HostFs
from agents.logs import Logger
from gpu_plugin import observation
from gpu_plugin.devices import Gpu, LostGpu, Machine, XidEvent
from gpu_plugin.driver_lanes import DriverLanes, hangs
from gpu_plugin.health import Health, xid_text
from gpu_plugin.health_config import HealthConfig
from gpu_plugin.inventory import Device, devices_of
from gpu_plugin.metrics import Counters
from gpu_plugin.nvml import DeviceIsGone, NoDriver, Nvml
from gpu_plugin.observation import Inventory
from gpu_plugin.pci import gpus_on_bus
from gpu_plugin.reopening import Reopening
from gpu_plugin.status import Usage
from gpu_plugin.xid_listener import XidListener
from gpu_plugin.xids import XidClass


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. `usage_s` passes between two looks at memory and processes, `idle_s` while all GPUs
    are well and nobody uses them. `limit_s` is for one GPU, or for the driver as a whole;
    `reopen_s` passes before a lost GPU is looked for in a new session, then twice that, and so on.
    XIDs come in storms: there is a `pause_s` between two looks in any case, and `same_xid_s`
    between two lines about one.
    """

    usage_s: float = 2.0
    idle_s: float = 4.0
    pause_s: float = 0.5
    inventory_s: float = 10.0
    limit_s: float = 10.0
    reopen_s: float = 10.0
    longest_reopen_s: float = 300.0
    same_xid_s: float = 60.0
    listen_first_s: float = 1.0
    listen_again_s: float = 5.0


class DriverWatch:
    """`problem` says why the driver cannot be asked (None: it can), `idle` that there is no GPU.
    `revision` grows with every change of the inventory or of a verdict of `health`.
    """

    def __init__(
        self,
        nvml: Nvml,
        host: HostFs,
        config: HealthConfig,
        timing: Timing,
        *,
        counters: Counters,
        log: Logger,
    ) -> None:
        self._nvml, self._host, self._config, self._timing = nvml, host, config, timing
        self._counters, self._log = counters, log
        self._lanes = DriverLanes(timing.limit_s, counters)
        self._listener = XidListener(nvml, hang_s=timing.limit_s, retry_s=timing.listen_again_s)
        self._known: dict[str, LostGpu] = {}
        self._names: dict[int, str] = {}
        self._failing: set[str] = set()
        self._due = 0.0
        self._wake = trio.Event()
        self._reopening = Reopening(timing.reopen_s, timing.longest_reopen_s)
        self._said: dict[tuple[str, int], float] = {}
        self._changed: Callable[[], None] = lambda: None
        self.health = Health(config)
        self.inventory: Inventory | None = None
        self.revision = 0
        self.usage: Mapping[str, Usage] = {}
        self.problem: str | None = "the GPU driver was not asked yet"
        self.idle = False
        self._said_problem = False

    async def run(self, changed: Callable[[], None]) -> None:
        """Never returns; calls `changed` when there is something new to know."""
        self._changed = changed
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listener.run, self._hear)
            nursery.start_soon(self._watch)

    @property
    def unmonitored(self) -> Mapping[str, str]:
        """GPUs (by UUID) whose events are not heard, and why."""
        if self.inventory is None:
            return {}
        return self._listener.unmonitored([gpu.uuid for gpu in self.inventory.machine.gpus])

    async def _watch(self) -> None:
        # First listen, then look: what happens in between is seen one way or the other.
        with trio.move_on_after(self._timing.listen_first_s):
            await self._listener.tried.wait()
        while True:
            if trio.current_time() >= self._due:
                self._due = trio.current_time() + self._timing.inventory_s
                await self._look()
            await self._probe()
            self._changed()
            await trio.sleep(self._timing.pause_s)
            pace_s = self._timing.idle_s if self._is_quiet() else self._timing.usage_s
            with trio.move_on_after(pace_s - self._timing.pause_s):
                await self._wake.wait()
            self._wake = trio.Event()

    def _is_quiet(self) -> bool:
        """Nothing is to be seen: to ask so many GPUs so often costs more than all the rest here."""
        return self.health.is_well and not any(one.processes != 0 for one in self.usage.values())

    async def _look(self) -> None:
        """At the whole machine. Without an answer, all stays as it was known."""
        try:
            outline = await self._lanes.ask(self._nvml.outline)
            answers = await self._look_at_each(outline.gpus)
            machine = self._with_vanished(outline.machine(answers))
            found = await self._lanes.ask(partial(observation.inventory, machine, self._host))
            self._answers(found)
            if self._reopening.due(self.health.wants_reopening, trio.current_time()):
                await self._lanes.ask(self._nvml.reopen)
                self._due = 0.0
        except NoDriver as error:
            await self._without_driver(error)
        except Unavailable as error:
            self._cannot(str(error))

    def _answers(self, found: Inventory) -> None:
        machine = found.machine
        self.inventory = found
        self.health.looked(machine)
        self.revision += 1
        if machine.gpus or machine.lost:
            self._can(idle=False)
        elif found.unlisted:
            there = ", ".join(found.unlisted)
            self._cannot(f"the driver lists no GPU, and on the PCI bus there is {there}")
        else:
            self._can(idle=True)

    async def _look_at_each(self, count: int) -> Sequence[Gpu | LostGpu]:
        answers: dict[int, Gpu | LostGpu] = {}

        async def look_at(index: int) -> None:
            try:
                answers[index] = await self._lanes.ask_gpu(index, partial(self._nvml.gpu, index))
            except Unavailable as error:
                name = self._names.get(index)
                reason = self._lanes.reason(error)
                answers[index] = LostGpu(index, name, reason, hangs=hangs(error))

        async with trio.open_nursery() as nursery:
            for index in range(count):
                nursery.start_soon(look_at, index)
        return [answers[index] for index in range(count)]

    def _with_vanished(self, machine: Machine) -> Machine:
        """A GPU that was there does not cease to exist: not listed any more, it is lost."""
        for gpu in machine.gpus:
            reason = "the driver does not list it any more"
            self._names[gpu.index] = gpu.uuid
            self._known[gpu.uuid] = LostGpu(gpu.index, gpu.uuid, reason, gpu.pci_bus_id)
        told = {gpu.uuid for gpu in machine.gpus} | {lost.uuid for lost in machine.lost}
        vanished = [lost for uuid, lost in self._known.items() if uuid not in told]
        return replace(machine, lost=(*machine.lost, *vanished))

    async def _probe(self) -> None:
        """Ask every device of every GPU for its memory and processes."""
        if self.inventory is None:
            return
        by_gpu: dict[int, list[Device]] = {}
        for device in devices_of(self.inventory.machine):
            by_gpu.setdefault(device.gpu_index, []).append(device)
        usage: dict[str, Usage] = {}
        async with trio.open_nursery() as nursery:
            for index, devices in by_gpu.items():
                nursery.start_soon(self._probe_gpu, index, devices, usage)
        self.usage = usage

    async def _probe_gpu(
        self, index: int, devices: Sequence[Device], usage: dict[str, Usage]
    ) -> None:
        failed: dict[str, AgentError] = {}
        uuids = [device.uuid for device in devices]
        try:
            usage |= await self._lanes.ask_gpu(
                index,
                lambda: observation.usage(self._nvml, uuids, failed.setdefault),
            )
        except Unavailable as error:
            problem = self._lanes.reason(error)
            answers: dict[Device, str | None] = dict.fromkeys(devices, problem)
        else:
            # One that is gone is no sick one: the next look finds out what took its place.
            present = [d for d in devices if not isinstance(failed.get(d.uuid), DeviceIsGone)]
            answers = {d: str(failed[d.uuid]) if d.uuid in failed else None for d in present}
            if failed.keys() - self._failing:  # see what is still there, at once
                self._due = 0.0
                self._wake.set()
            self._failing = self._failing.difference(uuids) | failed.keys()
        before = [self.health.verdict(device) for device in devices]
        self.health.probed(answers)
        if before != [self.health.verdict(device) for device in devices]:
            self.revision += 1
            self._changed()

    def _hear(self, event: XidEvent) -> None:
        """In the event loop, at once, whatever else is being waited for."""
        kind = self.health.heard(event)
        device = self.inventory.machine.name_of(event) if self.inventory else event.uuid
        self._counters.xids.labels(device, self._config.label(event.xid), kind.value).inc()
        now, key = trio.current_time(), (device, event.xid)
        if now - self._said.get(key, -self._timing.same_xid_s) >= self._timing.same_xid_s:
            self._said[key] = now
            say = self._log.info if kind is XidClass.APPLICATION else self._log.warning
            say(
                "driver reported an error",
                device_id=device,
                xid=event.xid,
                error=xid_text(event.xid),
            )
        if kind is not XidClass.APPLICATION:
            self.revision += 1
            self._changed()
        self._due = 0.0
        self._wake.set()

    async def _without_driver(self, error: NoDriver) -> None:
        """A node without a GPU needs none."""
        try:
            there = await self._lanes.ask(partial(gpus_on_bus, self._host))
        except Unavailable:
            there = None
        if there == () and self.inventory is None:
            self._can(idle=True)
        else:
            found = f" (on the PCI bus: {', '.join(there)})" if there else ""
            self._cannot(f"{error}{found}")

    def _can(self, *, idle: bool) -> None:
        if idle and not self.idle:
            self._log.info("no NVIDIA GPU on this node", hint="idle until one appears")
        elif self._said_problem:
            self._log.info("GPU driver answers again")
        self.idle, self.problem, self._said_problem = idle, None, False

    def _cannot(self, problem: str) -> None:
        # Said once: for how long it has not answered changes with every attempt.
        if not self._said_problem:
            self._log.warning("GPU driver unavailable", error=problem)
        self.idle, self.problem, self._said_problem = False, problem, True
