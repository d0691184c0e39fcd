# SPDX-License-Identifier: Apache-2.0
"""`Nvml` over a machine description and a state file: as the real driver would answer, faults too.

Knows no pynvml and no C. The contract tests hold it to the answers of `gpu_plugin.driver` over the
C library that reads the same two files.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from agents.errors import AgentError
from agents.hostfs import HostFs
from gpu_plugin.devices import (
    Gpu,
    GpuProcess,
    LostGpu,
    Machine,
    Memory,
    MemoryLimits,
    MigSlice,
    Outline,
    ProcessKind,
    Utilisation,
    XidEvent,
)
from gpu_plugin.nvml import DeviceIsGone, DriverIsGone, NoSuchCgroup, NotSupported
from gpu_plugin.simulated.description import (
    MigMode,
    SimulatedGpu,
    SimulatedMachine,
    SimulatedSlice,
)
from gpu_plugin.simulated.door import Device, Door
from gpu_plugin.simulated.happenings import Hold, State
from gpu_plugin.simulated.state import SimulatedState, StateReader

#: How often a wait for an event looks at the state file.
_EVENT_POLL_S = 0.5

_PROCESS_LISTS = {
    ProcessKind.COMPUTE: "nvmlDeviceGetComputeRunningProcesses",
    ProcessKind.GRAPHICS: "nvmlDeviceGetGraphicsRunningProcesses",
    ProcessKind.MPS: "nvmlDeviceGetMPSComputeRunningProcesses",
}


class SimulatedNvml:
    """One simulated machine. Safe to call from several threads, like the driver it stands for."""

    def __init__(
        self, machine: SimulatedMachine, state: Path, *, host: HostFs | None = None
    ) -> None:
        self._machine = machine
        self._host = host or HostFs()
        self._door = Door(machine, StateReader(state))
        self._writer = SimulatedState(state, proc=self._host.proc)
        self._told: dict[int, str] = {}
        self._events_of: int | None = None
        self._next_xid = self._of_earlier = 0
        self._unmonitored: dict[str, str] = {}

    def outline(self) -> Outline:
        self._door.enter("nvmlDeviceGetCount_v2")
        version, session = self._machine.driver_version, self._door.session
        return Outline(version, len(self._door.gpus), session, simulated=True)

    def gpu(self, index: int) -> Gpu | LostGpu:
        try:
            gpu = self._door.gpus[index]
            state = self._door.enter("nvmlDeviceGetUUID", gpu)
            self._told[index] = gpu.uuid
            return self._gpu(gpu, state)
        except IndexError:
            return LostGpu(index, self._told.get(index), f"there is no GPU {index} any more")
        except DriverIsGone:
            raise
        except AgentError as error:
            return LostGpu(index, self._told.get(index), str(error))

    def machine(self) -> Machine:
        outline = self.outline()
        return outline.machine([self.gpu(index) for index in range(outline.gpus)])

    def reopen(self) -> None:
        self._door.reopen()

    def memory(self, uuid: str) -> Memory:
        device = self._door.device(uuid)
        try:
            state = self._door.enter("nvmlDeviceGetMemoryInfo_v2", device)
            reserved = device.reserved
        except NotSupported:
            state = self._door.enter("nvmlDeviceGetMemoryInfo", device)
            reserved = 0
        usable = device.memory - device.reserved
        used = min(usable, sum(_used_by_pid(hold for hold, _ in self._holds(state, device))))
        # Without the v2 call what the driver keeps looks like memory in use.
        seen = used + (device.reserved - reserved)
        return Memory(total=device.memory, reserved=reserved, used=seen, free=usable - used)

    def processes(self, uuid: str) -> tuple[GpuProcess, ...]:
        device = self._door.device(uuid)
        processes = set()
        for kind, name in _PROCESS_LISTS.items():
            for hold, of_slice in self._listed(kind, name, device):
                gi = of_slice.gpu_instance if of_slice else None
                ci = of_slice.compute_instance if of_slice else None
                processes.add(GpuProcess(hold.pid, hold.used, kind, gi, ci))
        return tuple(sorted(processes, key=_order))

    def utilisation(self, uuid: str) -> Utilisation:
        device = self._door.device(uuid)
        try:
            state = self._door.enter("nvmlDeviceGetUtilizationRates", device)
        except NotSupported:
            return Utilisation(None, None)
        if isinstance(device, SimulatedSlice) or device.mig is MigMode.ENABLED:
            return Utilisation(None, None)
        gpu, memory = state.utilisation.get(uuid, (0, 0))
        return Utilisation(gpu / 100, memory / 100)

    def process_utilisation(self, uuid: str) -> Mapping[int, float]:
        device = self._door.device(uuid)
        state = self._door.enter("nvmlDeviceGetProcessUtilization", device)
        if isinstance(device, SimulatedSlice) or device.mig is MigMode.ENABLED:
            raise NotSupported(f"{uuid}: a slice tells nothing of what its processes do")
        holds = (hold for hold, _ in self._holds(state, device))
        return {hold.pid: hold.busy / 100 for hold in holds if hold.busy}

    def wait_event(self, timeout_s: float) -> XidEvent | None:
        deadline = time.monotonic() + timeout_s
        while True:
            xids = self._door.enter("nvmlEventSetWait_v2").xids
            if self._events_of != (session := self._door.session):
                self._register()
                first = len(xids) if self._events_of is None else self._door.first_xid
                self._next_xid = max(self._next_xid, first)
                self._events_of, self._of_earlier = session, len(xids)
            while self._next_xid < len(xids):
                self._next_xid += 1
                if event := self._event(*xids[self._next_xid - 1]):
                    return event
            left = deadline - time.monotonic()
            if left <= 0 or self._door.closed.wait(min(left, _EVENT_POLL_S)):
                return None

    def unmonitored(self) -> Mapping[str, str]:
        lost = dict.fromkeys(self._door.lost, "lost")
        return self._unmonitored | lost

    def memory_limits(self, uuid: str, cgroup: str) -> MemoryLimits:
        device = self._limitable(uuid, cgroup)
        state = self._door.enter("nvmlDeviceGetMemoryLimits_v1", device)
        soft, hard = state.limits.get((uuid, cgroup), (None, None))
        inside = (hold for hold, _ in self._holds(state, device) if self._in(hold.pid, cgroup))
        return MemoryLimits(soft, hard, sum(_used_by_pid(inside)))

    def set_memory_limits(self, uuid: str, cgroup: str, limits: MemoryLimits) -> None:
        self._door.enter("nvmlDeviceSetMemoryLimits_v1", self._limitable(uuid, cgroup))
        self._writer.limit(uuid, cgroup, soft=limits.soft or None, hard=limits.hard)

    def close(self) -> None:
        self._door.closed.set()

    def _gpu(self, gpu: SimulatedGpu, state: State) -> Gpu:
        return Gpu(
            uuid=gpu.uuid,
            index=gpu.index,
            minor=gpu.minor,
            model=gpu.model,
            pci_bus_id=gpu.pci_bus_id,
            numa_node=gpu.numa_node,
            memory=self.memory(gpu.uuid),
            mig_enabled=None if gpu.mig is MigMode.UNSUPPORTED else gpu.mig is MigMode.ENABLED,
            slices=tuple(
                MigSlice(
                    uuid=each.uuid,
                    parent_uuid=gpu.uuid,
                    profile=each.profile,
                    gpu_instance=each.gpu_instance,
                    compute_instance=each.compute_instance,
                    memory=self.memory(each.uuid),
                )
                for each in sorted(gpu.slices, key=lambda each: each.index)
                if each.compute_slices == each.gpu_slices
            ),
            demand=state.demands.get(gpu.uuid),
        )

    def _register(self) -> None:
        """For events, in a new session. Raises NotSupported when no GPU tells of any."""
        unmonitored: dict[str, str] = {}
        for gpu in self._door.gpus:
            try:
                state = self._door.enter("nvmlDeviceRegisterEvents", gpu)
                if gpu.uuid in state.deaf:
                    raise NotSupported(f"{gpu.uuid}: the simulated GPU tells of no events")
            except DriverIsGone:
                raise
            except AgentError as error:
                unmonitored[gpu.uuid] = str(error)
        self._unmonitored = unmonitored
        if len(unmonitored) == len(self._door.gpus):
            raise NotSupported("no simulated GPU tells of events")

    def _holds(
        self, state: State, device: Device, kind: ProcessKind | None = None
    ) -> Iterator[tuple[Hold, SimulatedSlice | None]]:
        """What living processes hold on the device; for a GPU, also on its slices."""
        slices = device.slices if isinstance(device, SimulatedGpu) else (device,)
        of_slice = {each.uuid: each for each in slices}
        for hold in tuple(state.holds.values()):
            mine = hold.uuid == device.uuid or hold.uuid in of_slice
            if mine and kind in (None, *hold.kinds) and hold.alive(self._host.proc):
                yield hold, of_slice.get(hold.uuid)

    def _listed(
        self, kind: ProcessKind, name: str, device: Device
    ) -> Iterator[tuple[Hold, SimulatedSlice | None]]:
        """Without either form of a list: no graphics, no MPS, and no telling about compute."""
        try:
            state = self._door.enter(f"{name}_v3", device)
        except NotSupported:
            try:
                state = self._door.enter(f"{name}_v2", device)
            except NotSupported:
                if kind is ProcessKind.COMPUTE:
                    raise
                return iter(())
        return self._holds(state, device, kind)

    def _event(self, uuid: str, xid: int) -> XidEvent | None:
        try:
            device = self._door.device(uuid)
        except DeviceIsGone:
            return None
        session = (self._events_of or 0) - (self._next_xid <= self._of_earlier)
        event = XidEvent(uuid, xid, session=session)
        if isinstance(device, SimulatedSlice):
            gpu_instance, compute_instance = device.gpu_instance, device.compute_instance
            event = XidEvent(device.parent_uuid, xid, gpu_instance, compute_instance, session)
        return None if event.uuid in self._unmonitored else event

    def _limitable(self, uuid: str, cgroup: str) -> Device:
        device = self._door.device(uuid)
        mig = isinstance(device, SimulatedSlice) or device.mig is MigMode.ENABLED
        if not self._machine.memory_limits or mig:
            raise NotSupported(f"{uuid}: the simulated driver cannot limit memory by cgroup")
        if not Path(cgroup).is_absolute() or not Path(cgroup).is_dir():
            raise NoSuchCgroup(f"{cgroup!r} is not a cgroup directory")
        return device

    def _in(self, pid: int, cgroup: str) -> bool:
        """Whether the process is in that cgroup v2 or below it."""
        try:
            lines = self._host.of_pid(pid, "cgroup").read_text().splitlines()
        except OSError:
            return False
        path = next((line[3:] for line in lines if line.startswith("0::")), "")
        return any(
            (directory := f"{root}{path}") == cgroup or directory.startswith(f"{cgroup}/")
            for root in (self._host.cgroup, self._host.cgroup / "unified")
        )


def _order(process: GpuProcess) -> tuple[int, str, float, float]:
    """By pid and kind, then by MIG instance, without one last."""
    instances = (process.gpu_instance, process.compute_instance)
    gpu, compute = (math.inf if number is None else number for number in instances)
    return (process.pid, process.kind.value, gpu, compute)


def _used_by_pid(holds: Iterator[Hold]) -> Iterator[int]:
    """Known bytes. A hold is in one list or several, but it is one: nothing counts twice."""
    return (hold.used for hold in holds if hold.used is not None)
