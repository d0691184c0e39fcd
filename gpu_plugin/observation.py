# SPDX-License-Identifier: Apache-2.0
"""What is read from the driver at one moment. Blocks, for as long as the driver likes: worker
threads only.

Knows no rule and no kubelet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from agents.errors import AgentError
from agents.hostfs import HostFs
from gpu_plugin.device_nodes import missing, nodes_of
from gpu_plugin.devices import GpuProcess, Machine
from gpu_plugin.inventory import Device, devices_of
from gpu_plugin.nvml import DriverIsGone, Nvml
from gpu_plugin.pci import gpus_on_bus
from gpu_plugin.readings import Reading, Readings
from gpu_plugin.status import Usage

#: NVML's nvmlDeviceSetMemoryLimits_v1 came with this driver branch.
_LIMITS_SINCE = 615


@dataclass(frozen=True, slots=True)
class Inventory:
    """The machine, the device nodes of the host by device, and the PCI addresses of GPUs that the
    driver does not list. `missing_nodes` says which nodes should be there too (None: all are).
    `limits_memory`: the driver can limit the memory of a cgroup.
    """

    machine: Machine
    nodes: Mapping[str, tuple[str, ...]]
    unlisted: tuple[str, ...] = ()
    missing_nodes: str | None = None
    limits_memory: bool = False


def inventory(machine: Machine, host: HostFs) -> Inventory:
    """What the host's trees add to what the driver told. A simulated machine has no more."""
    if machine.simulated:
        return Inventory(machine, {})
    devices = devices_of(machine)
    nodes = {device.uuid: nodes_of(device, host) for device in devices}
    return Inventory(
        machine,
        nodes,
        _unlisted(machine, host),
        missing(devices, host),
        _limits_memory(machine, host),
    )


def _limits_memory(machine: Machine, host: HostFs) -> bool:
    """Drivers do so since r615, and with the cgroup v2 hierarchy only."""
    release = machine.driver_version.partition(".")[0]
    unified = (host.cgroup / "cgroup.controllers").exists()
    return unified and release.isdigit() and int(release) >= _LIMITS_SINCE


def readings(
    nvml: Nvml, devices: Sequence[Device], failed: Callable[[str, AgentError], object]
) -> dict[str, Reading]:
    """Memory, processes and utilisation, each asked for once; a device that does not answer is left
    out, and `failed` is told why. Raises NvmlUnavailable when the driver as a whole is away.
    """
    found: dict[str, Reading] = {}
    lists: dict[str, _Lists] = {}
    for device in devices:
        asked_at = time.clock_gettime(time.CLOCK_BOOTTIME)
        try:
            memory = nvml.memory(device.uuid)
        except DriverIsGone:
            raise
        except AgentError as error:
            failed(device.uuid, error)
            continue
        if device.gpu_instance is None:
            processes = _with_utilisation(nvml, device.uuid, _processes(nvml, device.uuid))
            found[device.uuid] = Reading(
                device.uuid, memory, processes, _utilisation(nvml, device.uuid), asked_at
            )
        else:
            if device.gpu_uuid not in lists:
                lists[device.gpu_uuid] = _Lists(nvml, device.gpu_uuid, asked_at)
            of_gpu = lists[device.gpu_uuid]
            found[device.uuid] = Reading(
                device.uuid, memory, of_gpu.of(device), None, of_gpu.asked_at
            )
    return found


def usage(found: Readings) -> dict[str, Usage]:
    """What of it people are told of a device as a whole."""
    return {uuid: Usage(one.memory.used, _count(one.processes)) for uuid, one in found.items()}


class _Lists:
    """The process lists of a GPU's slices, from one question to the GPU: its list says of each
    process which instance it is on. Where that is forbidden, or not told, each slice is asked.
    """

    def __init__(self, nvml: Nvml, gpu: str, asked_at: float) -> None:
        self._nvml, self.asked_at = nvml, asked_at
        listed = _processes(nvml, gpu)
        told = listed is not None and all(one.gpu_instance is not None for one in listed)
        self._listed = listed if told else None

    def of(self, device: Device) -> tuple[GpuProcess, ...] | None:
        if self._listed is None:
            return _processes(self._nvml, device.uuid)
        place = (device.gpu_instance, device.compute_instance)
        return tuple(
            one for one in self._listed if (one.gpu_instance, one.compute_instance) == place
        )


def _processes(nvml: Nvml, uuid: str) -> tuple[GpuProcess, ...] | None:
    """None: not told. Whether the device is well is what its memory tells."""
    try:
        return nvml.processes(uuid)
    except AgentError:
        return None


def _with_utilisation(
    nvml: Nvml, uuid: str, processes: tuple[GpuProcess, ...] | None
) -> tuple[GpuProcess, ...] | None:
    """Where the driver tells it by process; nobody is asked for a device without any."""
    if not processes:
        return processes
    try:
        parts = nvml.process_utilisation(uuid)
    except AgentError:
        return processes
    return tuple(replace(one, utilisation=parts.get(one.pid, 0.0)) for one in processes)


def _utilisation(nvml: Nvml, uuid: str) -> float | None:
    try:
        return nvml.utilisation(uuid).gpu
    except AgentError:
        return None


def _count(processes: tuple[GpuProcess, ...] | None) -> int | None:
    return None if processes is None else len({process.pid for process in processes})


def _unlisted(machine: Machine, host: HostFs) -> tuple[str, ...]:
    if any(lost.uuid is None for lost in machine.lost):
        return ()  # it may be that one, and is told of already
    known = {gpu.pci_bus_id for gpu in machine.gpus}
    known |= {lost.pci_bus_id for lost in machine.lost if lost.pci_bus_id is not None}
    return tuple(address for address in gpus_on_bus(host) or () if address not in known)
