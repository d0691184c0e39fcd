# SPDX-License-Identifier: Apache-2.0
"""What NVML tells about devices, in our words. Knows no thread, and of NVML's errors only ours.

Functions that an older driver lacks have a fallback here; what a driver does not tell is None.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from agents.hostfs import HostFs
from gpu_plugin.devices import Gpu, GpuProcess, Memory, MigSlice, ProcessKind, Utilisation
from gpu_plugin.driver_session import ListGrew, Session
from gpu_plugin.nvml import DeviceIsGone, NotPermitted, NotSupported

#: NVML's "no MIG instance".
NO_INSTANCE = 0xFFFFFFFF
#: How often a process list that grows while it is read is asked for again.
_LIST_ATTEMPTS = 5
#: NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, of branch 560 and later.
_RECOVERY_ACTION = 230
#: Its values that forbid new work; 0 is none, 3 concerns NVLink traffic between GPUs alone.
_DEMANDS = {
    1: "a reset of the GPU",
    2: "a reboot of the node",
    4: "no new work until it is reset",
    5: "the recovery of its NVLink domain",
    6: "a reset of its bus",
    7: "a restart of the whole system",
}
#: Host NUMA nodes that the affinity call has room for, in words of 64.
_NODE_WORDS = 16

_PROFILE_IN_NAME = re.compile(r" MIG (\S+)$")

_PROCESS_LISTS = {
    ProcessKind.COMPUTE: "nvmlDeviceGetComputeRunningProcesses",
    ProcessKind.GRAPHICS: "nvmlDeviceGetGraphicsRunningProcesses",
    ProcessKind.MPS: "nvmlDeviceGetMPSComputeRunningProcesses",
}


@dataclass(frozen=True, slots=True)
class DriverQueries:
    """Questions within one session; devices by UUID."""

    session: Session

    def identify(self, index: int) -> str:
        """The UUID of the GPU that has this index now."""
        place = f"GPU {index}"
        handle = self.session.call("nvmlDeviceGetHandleByIndex", index, device=place)
        uuid: str = self.session.call("nvmlDeviceGetUUID", handle, device=place)
        self.session.handles[uuid] = handle
        return uuid

    def gpu(self, uuid: str, index: int, host: HostFs) -> Gpu:
        pci_bus_id = _pci_bus_id(self.session.on(uuid, "nvmlDeviceGetPciInfo_v3").busId)
        mig_enabled = self._mig_enabled(uuid)
        return Gpu(
            uuid=uuid,
            index=index,
            minor=self.session.on(uuid, "nvmlDeviceGetMinorNumber"),
            model=self.session.on(uuid, "nvmlDeviceGetName"),
            pci_bus_id=pci_bus_id,
            numa_node=self._numa_node(uuid, pci_bus_id, host),
            memory=self.memory(uuid),
            mig_enabled=mig_enabled,
            slices=tuple(self._slices(uuid)) if mig_enabled else (),
            demand=self._demand(uuid),
        )

    def memory(self, uuid: str) -> Memory:
        """With the memory that the driver keeps; before branch 510 that counts as used."""
        version = getattr(self.session.pynvml, "nvmlMemory_v2", None)
        try:
            info = self.session.on(uuid, "nvmlDeviceGetMemoryInfo", version, variant="_v2")
            return Memory(info.total, info.reserved, info.used, info.free)
        except NotSupported:
            info = self.session.on(uuid, "nvmlDeviceGetMemoryInfo")
            return Memory(info.total, 0, info.used, info.free)

    def utilisation(self, uuid: str) -> Utilisation:
        try:
            rates = self.session.on(uuid, "nvmlDeviceGetUtilizationRates")
        except NotSupported:
            return Utilisation(None, None)
        return Utilisation(rates.gpu / 100, rates.memory / 100)

    def process_utilisation(self, uuid: str) -> dict[int, float]:
        """By pid, the most of compute, memory, encoder and decoder, and the most of all samples.
        Those have the driver's own time; a process without any was idle.
        """
        before, handle = self.session.sampled_until.get(uuid, 0), self.session.handle(uuid)
        name = "nvmlDeviceGetProcessUtilization"
        try:
            samples = self.session.call(name, handle, before, device=uuid)
        except DeviceIsGone:
            # NVML says "not found" when there is no sample; of a device that is gone it knows no
            # name either.
            self.session.on(uuid, "nvmlDeviceGetUUID")
            return {}
        found: dict[int, float] = {}
        for one in samples:
            if one.timeStamp > before:  # an old driver fills the list up with what was told before
                part = max(one.smUtil, one.memUtil, one.encUtil, one.decUtil) / 100
                found[one.pid] = max(found.get(one.pid, 0.0), min(part, 1.0))
        newest = max((one.timeStamp for one in samples), default=before)
        self.session.sampled_until[uuid] = max(before, newest)
        return found

    def processes(self, uuid: str) -> tuple[GpuProcess, ...]:
        """Raises NotSupported when not even compute processes are told: that is not "none"."""
        found: dict[tuple[Any, ...], GpuProcess] = {}
        for kind, name in _PROCESS_LISTS.items():
            for each in self._process_list(uuid, kind, name):
                process = GpuProcess(
                    each.pid,
                    each.usedGpuMemory,
                    kind,
                    None if each.gpuInstanceId == NO_INSTANCE else each.gpuInstanceId,
                    None if each.computeInstanceId == NO_INSTANCE else each.computeInstanceId,
                )
                key = (process.pid, kind.value, each.gpuInstanceId, each.computeInstanceId)
                if key not in found or (found[key].used or 0) < (process.used or 0):
                    found[key] = process
        return tuple(found[key] for key in sorted(found))

    def _process_list(self, uuid: str, kind: ProcessKind, name: str) -> list[Any]:
        try:
            return self._whole_list(uuid, f"{name}_v3")
        except NotSupported:
            pass
        try:
            return self._whole_list(uuid, f"{name}_v2")
        except NotSupported:
            if kind is ProcessKind.COMPUTE:
                raise
            return []

    def _whole_list(self, uuid: str, name: str) -> list[Any]:
        for _ in range(_LIST_ATTEMPTS - 1):
            try:
                return list(self.session.on(uuid, name))
            except ListGrew:
                continue
        return list(self.session.on(uuid, name))

    def _demand(self, uuid: str) -> str | None:
        """What must be done before new work may start: the driver's own verdict, where it has one;
        else whether a faulty memory row could not be replaced (Ampere and later).
        """
        told = self._if_told(uuid, "nvmlDeviceGetFieldValues", [_RECOVERY_ACTION])
        if told is not None and told[0].nvmlReturn == 0 and told[0].value.uiVal in _DEMANDS:
            return _DEMANDS[told[0].value.uiVal]
        rows = self._if_told(uuid, "nvmlDeviceGetRemappedRows")
        failed = rows is not None and rows[3]
        return "a repair: a faulty memory row could not be replaced" if failed else None

    def _if_told(self, uuid: str, name: str, *arguments: Any) -> Any:
        """None where the driver cannot or may not answer: a GPU is not lost for that."""
        try:
            return self.session.on(uuid, name, *arguments)
        except (NotSupported, NotPermitted, DeviceIsGone):
            return None

    def _mig_enabled(self, uuid: str) -> bool | None:
        try:
            return bool(self.session.on(uuid, "nvmlDeviceGetMigMode")[0])
        except NotSupported:
            return None

    def _slices(self, parent: str) -> Iterator[MigSlice]:
        for index in range(self.session.on(parent, "nvmlDeviceGetMaxMigDeviceCount")):
            try:
                each = self._slice(parent, index)
            except DeviceIsGone:
                continue  # a hole in the numbering, or removed while we looked
            if each:
                yield each

    def _slice(self, parent: str, index: int) -> MigSlice | None:
        """None for a compute instance that shares its GPU instance, and with it the memory."""
        gpu = self.session.handle(parent)
        place = f"{parent} MIG device {index}"
        name = "nvmlDeviceGetMigDeviceHandleByIndex"
        handle = self.session.call(name, gpu, index, device=place)
        uuid: str = self.session.call("nvmlDeviceGetUUID", handle, device=place)
        self.session.handles[uuid] = handle
        attributes = self.session.on(uuid, "nvmlDeviceGetAttributes_v2")
        if attributes.computeInstanceSliceCount != attributes.gpuInstanceSliceCount:
            return None
        return MigSlice(
            uuid=uuid,
            parent_uuid=parent,
            profile=_profile(self.session.on(uuid, "nvmlDeviceGetName"), attributes),
            gpu_instance=self.session.on(uuid, "nvmlDeviceGetGpuInstanceId"),
            compute_instance=self.session.on(uuid, "nvmlDeviceGetComputeInstanceId"),
            memory=self.memory(uuid),
        )

    def _numa_node(self, uuid: str, pci_bus_id: str, host: HostFs) -> int | None:
        """The host's node, from the kernel; from NVML where the kernel's tree is not in view.

        (What NVML calls the NUMA node of a GPU is that of its memory, on machines where it is one.)
        """
        try:
            node = int((host.pci_devices / pci_bus_id / "numa_node").read_text())
            return node if node >= 0 else None
        except (OSError, ValueError):
            pass
        scope = getattr(self.session.pynvml, "NVML_AFFINITY_SCOPE_NODE", 0)
        try:
            words = self.session.on(uuid, "nvmlDeviceGetMemoryAffinity", _NODE_WORDS, scope)
        except NotSupported:
            return None
        bits = sum(word << (64 * place) for place, word in enumerate(words))
        return bits.bit_length() - 1 if bits.bit_count() == 1 else None


def _pci_bus_id(told: str) -> str:
    """NVML writes the domain with eight digits and in capitals, the kernel with four."""
    domain, _, rest = told.lower().partition(":")
    return f"{int(domain, 16):04x}:{rest}"


def _profile(name: str, attributes: Any) -> str:
    """The name says it; else it is put together as NVIDIA does. Memory is never taken from it."""
    if match := _PROFILE_IN_NAME.search(name):
        return match[1]
    gib = (attributes.memorySizeMB + 512) // 1024
    return f"{attributes.gpuInstanceSliceCount}g.{gib}gb"
