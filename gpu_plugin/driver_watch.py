# SPDX-License-Identifier: Apache-2.0
"""Looks at the driver on a tick and listens to it, and keeps what was learned last.

Judges nothing: `health` does. Knows no rule, no unit and no kubelet, and `driver_lanes` knows how a
question is asked.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
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
from gpu_plugin.probing import Probing
from gpu_plugin.readings import Readings
from gpu_plugin.reopening import Reopening
from gpu_plugin.status import Usage
from gpu_plugin.xid_listener import XidListener
from gpu_plugin.xids import XidClass


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. `usage_s` passes between two looks at memory and processes (unless who accounts for
    them wants more), `idle_s` while all GPUs are well and nobody uses them; `patience_s` is waited
    for a GPU that is slower than the others. `limit_s` is for one GPU, or for the driver as a
    whole; `reopen_s` passes before a lost GPU is looked for in a new session, then twice that, and
    so on. XIDs come in storms: there is a `pause_s` between two looks in any case, and
    `same_xid_s` between two lines about one.
    """

    usage_s: float = 2.0
    idle_s: float = 4.0
    patience_s: float = 0.25
    pause_s: float = 0.5
    inventory_s: float = 10.0
    limit_s: float = 10.0
    reopen_s: float = 10.0
    longest_reopen_s: float = 300.0
    same_xid_s: float = 60.0
    listen_first_s: float = 1.0
    listen_again_s: float = 5.0


#: Between two rounds of readings in any case, in seconds.
_REST_S = 0.02


async def _nobody(readings: Readings) -> None:
    pass


class DriverWatch:
    """`pace_s` may say after how many seconds the readings are wanted again (None: as usual).

    `problem` says why the driver cannot be asked (None: it can), `idle` that there is no GPU.
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
        self._probing = Probing(nvml, self._lanes, self._answered)
        self._clean_at: dict[int, float] = {}
        self._due = 0.0
        self._look_now, self._probe_now = trio.Event(), trio.Event()
        self._reopening = Reopening(timing.reopen_s, timing.longest_reopen_s)
        self._said: dict[tuple[str, int], float] = {}
        self._changed: Callable[[], None] = lambda: None
        self._probed: Callable[[Readings], Awaitable[None]] = _nobody
        self.pace_s: Callable[[], float | None] = lambda: None
        self.health = Health(config)
        self.inventory: Inventory | None = None
        self.revision = 0
        self.problem: str | None = "the GPU driver was not asked yet"
        self.idle = False
        self._said_problem = False

    async def run(
        self,
        changed: Callable[[], None],
        probed: Callable[[Readings], Awaitable[None]] = _nobody,
    ) -> None:
        """Never returns; calls `changed` when there is something new to know, and `probed` with
        what the devices have told, before they are asked again.
        """
        self._changed, self._probed = changed, probed
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listener.run, self._hear)
            # First listen, then look: what happens in between is seen one way or the other.
            with trio.move_on_after(self._timing.listen_first_s):
                await self._listener.tried.wait()
            nursery.start_soon(self._keep_looking)
            nursery.start_soon(self._keep_probing, nursery)

    def probe_soon(self) -> None:
        """Ask for readings before they are due, as something may have begun."""
        self._probe_now.set()

    @property
    def usage(self) -> Mapping[str, Usage]:
        """What each device told last, those that answer."""
        return observation.usage(self._probing.readings)

    @property
    def unmonitored(self) -> Mapping[str, str]:
        """GPUs (by UUID) whose events are not heard, and why."""
        if self.inventory is None:
            return {}
        return self._listener.unmonitored([gpu.uuid for gpu in self.inventory.machine.gpus])

    async def _keep_looking(self) -> None:
        while True:
            self._due = trio.current_time() + self._timing.inventory_s
            was_called = self._look_now.is_set()
            self._look_now = trio.Event()
            before = self._devices()
            await self._look()
            self._changed()
            if was_called or before != self._devices():
                self._probe_now.set()
            await trio.sleep(self._timing.pause_s)
            with trio.move_on_at(self._due):
                await self._look_now.wait()

    def _devices(self) -> tuple[Device, ...] | None:
        return None if self.inventory is None else devices_of(self.inventory.machine)

    async def _keep_probing(self, nursery: trio.Nursery) -> None:
        while True:
            await self._probe_now.wait()  # the machine is known
            self._probe_now = trio.Event()
            began = trio.current_time()
            await self._probe(nursery)
            self._changed()
            wanted_s = self.pace_s()
            due = began + (self._usual_s() if wanted_s is None else wanted_s)
            left_s = due - trio.current_time()
            await trio.sleep(min(self._timing.pause_s, max(_REST_S, left_s)))
            with trio.move_on_at(due):
                await self._probe_now.wait()
            self._probe_now.set()

    def _usual_s(self) -> float:
        """While nothing is to be seen, to ask so many GPUs so often costs more than all else."""
        used = any(one.processes for one in self._probing.readings.values())
        told = all(one.processes is not None for one in self._probing.readings.values())
        quiet = self.health.is_well and told and not used
        return self._timing.idle_s if quiet else self._timing.usage_s

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

    async def _probe(self, nursery: trio.Nursery) -> None:
        """Ask every device of every GPU."""
        patience_s = min(self._timing.patience_s, self.pace_s() or math.inf)
        await self._probed(await self._probing.round(self._devices() or (), patience_s, nursery))

    def _answered(
        self, devices: Sequence[Device], failed: Mapping[str, AgentError], late: Unavailable | None
    ) -> None:
        """Devices of one GPU, and which of them did not answer; `late`: nothing did."""
        if late is not None:
            answers: dict[Device, str | None] = dict.fromkeys(devices, self._lanes.reason(late))
        else:
            # One that is gone is no sick one: the next look finds out what took its place.
            present = [d for d in devices if not isinstance(failed.get(d.uuid), DeviceIsGone)]
            answers = {d: str(failed[d.uuid]) if d.uuid in failed else None for d in present}
            if failed.keys() - self._failing:  # see what is still there, at once
                self._look_soon()
            self._failing = self._failing.difference(d.uuid for d in devices) | failed.keys()
        if any(answers.values()) or self._is_new(devices[0].gpu_index):
            before = [self.health.verdict(device) for device in devices]
            self.health.probed(answers)
            if before != [self.health.verdict(device) for device in devices]:
                self.revision += 1
                self._changed()

    def _is_new(self, index: int) -> bool:
        """Whether a clean answer of this GPU says more of its health than the one before: so many
        in a row end an ailment, and the pace of the readings is another's choice.
        """
        now = trio.current_time()
        if now - self._clean_at.get(index, -math.inf) < self._timing.usage_s * 0.9:
            return False
        self._clean_at[index] = now
        return True

    def _look_soon(self) -> None:
        self._due = 0.0
        self._look_now.set()

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
        self._look_soon()

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
