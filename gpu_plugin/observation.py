# SPDX-License-Identifier: Apache-2.0
"""What is read from the driver at one moment. Blocks, for as long as the driver likes: worker
threads only.

Knows no rule and no kubelet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from agents.errors import AgentError
from agents.hostfs import HostFs
from gpu_plugin.device_nodes import missing, nodes_of
from gpu_plugin.devices import Machine
from gpu_plugin.inventory import devices_of
from gpu_plugin.nvml import DriverIsGone, Nvml
from gpu_plugin.pci import gpus_on_bus
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


def usage(
    nvml: Nvml, uuids: Iterable[str], failed: Callable[[str, AgentError], object]
) -> dict[str, Usage]:
    """Memory and processes by device; one that does not answer is left out, and `failed` is told
    why. Raises NvmlUnavailable when the driver as a whole is away.
    """
    found: dict[str, Usage] = {}
    for uuid in uuids:
        try:
            used = nvml.memory(uuid).used
        except DriverIsGone:
            raise
        except AgentError as error:
            failed(uuid, error)
            continue
        found[uuid] = Usage(used, _processes(nvml, uuid))
    return found


def _processes(nvml: Nvml, uuid: str) -> int | None:
    """None: not told. Whether the device is well is what its memory tells."""
    try:
        return len({process.pid for process in nvml.processes(uuid)})
    except AgentError:
        return None


def _unlisted(machine: Machine, host: HostFs) -> tuple[str, ...]:
    if any(lost.uuid is None for lost in machine.lost):
        return ()  # it may be that one, and is told of already
    known = {gpu.pci_bus_id for gpu in machine.gpus}
    known |= {lost.pci_bus_id for lost in machine.lost if lost.pci_bus_id is not None}
    return tuple(address for address in gpus_on_bus(host) or () if address not in known)
