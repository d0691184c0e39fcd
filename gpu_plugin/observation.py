# SPDX-License-Identifier: Apache-2.0
"""What is read from the driver at one moment. Blocks, for as long as the driver likes: worker
threads only.

Knows no rule and no kubelet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from agents.hostfs import HostFs
from gpu_plugin.device_nodes import nodes_of
from gpu_plugin.devices import Machine
from gpu_plugin.inventory import devices_of
from gpu_plugin.nvml import GpuIsLost, NotSupported, Nvml
from gpu_plugin.status import Usage


@dataclass(frozen=True, slots=True)
class Inventory:
    """The machine, and the device nodes of the host by device."""

    machine: Machine
    nodes: Mapping[str, tuple[str, ...]]


def inventory(nvml: Nvml, host: HostFs) -> Inventory:
    """Enumerate everything anew. Raises NvmlUnavailable."""
    machine = nvml.machine()
    if machine.simulated:
        return Inventory(machine, {})
    return Inventory(
        machine, {device.uuid: nodes_of(device, host) for device in devices_of(machine)}
    )


def usage(nvml: Nvml, uuids: Iterable[str], failed: Callable[[str], None]) -> dict[str, Usage]:
    """Memory and processes by device; one that does not answer is left out, and `failed` is told
    which call it was. Raises NvmlUnavailable when the driver as a whole is away.
    """
    found: dict[str, Usage] = {}
    for uuid in uuids:
        try:
            used = nvml.memory(uuid).used
        except GpuIsLost:
            failed("memory")
            continue
        found[uuid] = Usage(used, _processes(nvml, uuid, failed))
    return found


def _processes(nvml: Nvml, uuid: str, failed: Callable[[str], None]) -> int | None:
    try:
        return len({process.pid for process in nvml.processes(uuid)})
    except NotSupported:
        return None
    except GpuIsLost:
        failed("processes")
        return None
