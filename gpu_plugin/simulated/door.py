# SPDX-License-Identifier: Apache-2.0
"""The door of every simulated NVML function: delays, faults, sessions, and what is there now.

Knows what goes wrong, and nothing of what is answered when all goes well.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

from gpu_plugin.nvml import (
    DeviceIsGone,
    DriverIsGone,
    GpuIsLost,
    NotPermitted,
    NotSupported,
)
from gpu_plugin.simulated.description import (
    GPU_SLICES,
    MigMode,
    SimulatedGpu,
    SimulatedMachine,
    SimulatedSlice,
    slice_counts,
)
from gpu_plugin.simulated.happenings import Made, State
from gpu_plugin.simulated.state import StateReader

Device = SimulatedGpu | SimulatedSlice


class Door:
    """One machine and what happens on it. Thread-safe. `first_xid` is the first one since the
    driver was loaded.
    """

    def __init__(self, machine: SimulatedMachine, reader: StateReader) -> None:
        self._machine = machine
        self._reader = reader
        self._lock = threading.Lock()
        self._session = 0
        self._loads = -1
        self._stale = False
        self._lost: set[str] = set()
        self._listed: tuple[SimulatedGpu, ...] = ()
        self.first_xid = 0
        self.closed = threading.Event()

    def enter(self, symbol: str, device: Device | None = None) -> State:
        """What is there for this call, once it has taken its time. Raises what goes wrong."""
        state = self._look()
        delay_ms = state.slow_ms.get(symbol, state.slow_ms.get("*", 0))
        if device is not None:
            delay_ms = max(delay_ms, state.hang_ms.get(_gpu_of(device), 0))
        if delay_ms:
            threading.Event().wait(delay_ms / 1000)
            state = self._look()
        if device is not None:
            self._check(device, state)
        if symbol in state.missing:
            raise NotSupported(f"the simulated driver has no {symbol}")
        if symbol in state.denied:
            raise NotPermitted(f"no permission to call {symbol} on the simulated driver")
        return state

    @property
    def session(self) -> int:
        return self._session

    @property
    def lost(self) -> frozenset[str]:
        """UUIDs of the GPUs that this session will not find again."""
        return frozenset(self._lost)

    @property
    def gpus(self) -> tuple[SimulatedGpu, ...]:
        """Those that this session lists, as they are now."""
        state = self._look()
        return tuple(self._now(gpu, state) for gpu in self._listed)

    def device(self, uuid: str) -> Device:
        """A GPU or slice that is there now. Raises DeviceIsGone."""
        for gpu in self.gpus:
            devices: tuple[Device, ...] = (gpu, *gpu.slices)
            for device in devices:
                if device.uuid == uuid:
                    return device
        raise DeviceIsGone(f"no device has the UUID {uuid}")

    def reopen(self) -> None:
        """The next call is of a new session."""
        self._stale = True

    def _look(self) -> State:
        if self.closed.is_set():
            raise DriverIsGone("this driver was closed")
        state = self._reader.read()
        if not state.loaded:
            raise DriverIsGone("the simulated driver is not loaded", remedy="reload it")
        with self._lock:
            if self._stale or state.loads != self._loads:
                if state.loads != self._loads:
                    self.first_xid = len(state.xids)
                self._stale, self._loads = False, state.loads
                self._session += 1
                self._lost = set()
                self._listed = tuple(
                    replace(gpu, index=index)
                    for index, gpu in enumerate(
                        gpu for gpu in self._machine.gpus if gpu.uuid not in state.unplugged
                    )
                )
            # Within a session NVML never takes the verdict back.
            self._lost |= state.lost | state.unplugged
        return state

    def _check(self, device: Device, state: State) -> None:
        gpu = _gpu_of(device)
        if gpu in self._lost:
            raise GpuIsLost(f"{gpu} does not answer: GPU is lost")
        if isinstance(device, SimulatedSlice) and device not in self._slices(gpu, state):
            raise DeviceIsGone(f"no device has the UUID {device.uuid} any more")

    def _slices(self, uuid: str, state: State) -> tuple[SimulatedSlice, ...]:
        gpus = (gpu for gpu in self._listed if gpu.uuid == uuid)
        return tuple(each for gpu in gpus for each in self._now(gpu, state).slices)

    def _now(self, gpu: SimulatedGpu, state: State) -> SimulatedGpu:
        """The GPU with the MIG mode and the slices that it has now."""
        if gpu.mig is MigMode.UNSUPPORTED:
            return gpu
        on = state.mig.get(gpu.uuid, gpu.mig is MigMode.ENABLED)
        mode = MigMode.ENABLED if on else MigMode.DISABLED
        return replace(gpu, mig=mode, slices=tuple(_slices_now(gpu, state)) if on else ())


def _gpu_of(device: Device) -> str:
    return device.uuid if isinstance(device, SimulatedGpu) else device.parent_uuid


def _slices_now(gpu: SimulatedGpu, state: State) -> Iterator[SimulatedSlice]:
    described = [each for each in gpu.slices if each.uuid not in state.removed]
    yield from described
    taken = {each.index for each in described}
    free = (index for index in range(GPU_SLICES) if index not in taken)
    mine = (each for each in tuple(state.made.values()) if each.gpu == gpu.uuid)
    present = (each for each in mine if each.uuid not in state.removed)
    yield from map(_made, present, free)


def _made(made: Made, index: int) -> SimulatedSlice:
    gpu_slices, compute_slices = slice_counts(made.profile)
    return SimulatedSlice(
        uuid=made.uuid,
        parent_uuid=made.gpu,
        index=index,
        profile=made.profile,
        gpu_instance=made.gpu_instance,
        compute_instance=made.compute_instance,
        gpu_slices=gpu_slices,
        compute_slices=compute_slices,
        memory=made.memory,
        reserved=0,
    )
