# SPDX-License-Identifier: Apache-2.0
"""What a configuration would advertise on a machine, in words: from the very plan that the agent
makes.

Pure: no driver, no kubelet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from agents.report import Report
from agents.tables import UNKNOWN, Table, lines
from gpu_plugin import budget
from gpu_plugin.config import GpuPluginConfig
from gpu_plugin.devices import Machine
from gpu_plugin.inventory import Device, devices_of
from gpu_plugin.resources import Plan, Resource, ServedDevice, plan, size_text

_DEVICES = ("resource", "GPU", "device", "NUMA", "memory", "usable", "units", "of", "UUID")
_COSTS = ("resource", "units", "largest pod", "list", "checkpoint", "pod status", "podresources")
_LIMITS = (
    f"Bytes at worst. The kubelet takes a list of {budget.MESSAGE_LIMIT}, clients of podresources "
    f"as much; a pod's status is within {budget.OBJECT_LIMIT} for the whole pod."
)


def explain(section: GpuPluginConfig, machine: Machine) -> Report:
    """Each resource with its devices, what nobody serves, and the problems."""
    decided = plan(section.resources, machine)
    unserved = tuple(_unserved(decided, machine))
    rows = [_row(resource, served) for resource in decided.resources for served in resource.devices]
    tables = [
        Table("Devices and their units", _DEVICES, rows),
        Table(
            "What each resource costs the kubelet",
            _COSTS,
            [_cost(resource) for resource in decided.resources],
            _LIMITS,
        ),
    ]
    text = [
        *_machine(machine),
        "",
        *lines(tables if decided.resources else ()),
        *(f"served by no rule: {device.title}" for device in unserved),
        *(f"problem: {problem.text}" for problem in decided.problems),
    ]
    return Report(text, _document(machine, decided, unserved))


def _machine(machine: Machine) -> Iterator[str]:
    kind = "SIMULATED machine" if machine.simulated else "machine"
    gpus = "1 GPU" if len(machine.gpus) == 1 else f"{len(machine.gpus)} GPUs"
    yield f"{kind}: {gpus}, driver {machine.driver_version}"
    for gpu in machine.lost:
        yield f"lost: GPU {gpu.index} ({gpu.uuid or 'unknown UUID'}): {gpu.reason}"


def _row(resource: Resource, served: ServedDevice) -> tuple[str, ...]:
    device = served.device
    return (
        resource.name,
        str(device.gpu_index),
        device.model if device.profile is None else f"{device.profile} gi{device.gpu_instance}",
        UNKNOWN if device.numa_node is None else str(device.numa_node),
        size_text(device.memory_total),
        size_text(_usable(device)),
        str(served.units),
        "the device" if resource.chunk is None else size_text(resource.chunk),
        device.uuid,
    )


def _usable(device: Device) -> int:
    """What the driver leaves, in bytes."""
    return device.memory_total - device.memory_reserved


def _cost(resource: Resource) -> tuple[str, ...]:
    sizes = resource.sizes
    span = " over devices" if resource.split else ""
    return (
        resource.name,
        str(_units(resource)),
        f"{resource.most_units}{span}",
        *map(str, (sizes.message, sizes.checkpoint, sizes.pod_status, sizes.podresources)),
    )


def _units(resource: Resource) -> int:
    return sum(served.units for served in resource.devices)


def _unserved(decided: Plan, machine: Machine) -> Iterator[Device]:
    """Devices that no rule wants; those that a problem is about are named by it."""
    named = {uuid for problem in decided.problems for uuid in problem.devices}
    serving = decided.serving
    for device in devices_of(machine):
        if device.uuid not in serving and device.uuid not in named:
            yield device


def _document(machine: Machine, decided: Plan, unserved: Sequence[Device]) -> dict[str, Any]:
    return {
        "simulated": machine.simulated,
        "driver_version": machine.driver_version,
        "gpus": len(machine.gpus),
        "lost": [
            {"index": gpu.index, "uuid": gpu.uuid, "reason": gpu.reason} for gpu in machine.lost
        ],
        "resources": [
            {
                "name": resource.name,
                "units": _units(resource),
                "chunk_bytes": resource.chunk,
                "largest_pod_units": resource.most_units,
                "split": resource.split,
                "bytes": asdict(resource.sizes),
                "devices": [_device(resource, served) for served in resource.devices],
            }
            for resource in decided.resources
        ],
        "unserved": [device.uuid for device in unserved],
        "problems": [
            {"resource": one.resource, "text": one.text, "devices": list(one.devices)}
            for one in decided.problems
        ],
    }


def _device(resource: Resource, served: ServedDevice) -> dict[str, Any]:
    device = served.device
    return {
        "uuid": device.uuid,
        "gpu_index": device.gpu_index,
        "model": device.model,
        "profile": device.profile,
        "numa_node": device.numa_node,
        "memory_bytes": device.memory_total,
        "usable_bytes": _usable(device),
        "units": served.units,
        "unit_bytes": resource.unit_memory(served),
    }
