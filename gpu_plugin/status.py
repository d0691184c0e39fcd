# SPDX-License-Identifier: Apache-2.0
"""This node's GPUs and who holds them, as one value: for `/status.json`, tables and metrics. Pure.

What could not be learned is None, never 0 and never an empty list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gpu_plugin import units
from gpu_plugin.devices import Machine
from gpu_plugin.inventory import Device, DeviceKind, devices_of
from gpu_plugin.resources import Plan, Resource, ServedDevice

if TYPE_CHECKING:  # it loads gRPC, which a look at a machine does not need
    from agents.podresources import PodDevices


@dataclass(frozen=True, slots=True)
class Holder:
    """A container that holds units of one device."""

    namespace: str
    pod: str
    container: str
    units: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What the driver last told of one device; None: it did not."""

    memory_used: int | None
    processes: int | None


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """One device. `resource` None: no rule serves it; then it has 0 units.

    `kind` is gpu or mig, `profile` that of a slice. `health` is "healthy", or says what is wrong.
    `unit_memory` is what one unit stands for. Memory is in bytes.
    """

    uuid: str
    model: str
    kind: str
    profile: str | None
    gpu_index: int
    memory_total: int
    memory_reserved: int
    memory_used: int | None
    processes: int | None
    resource: str | None
    units: int
    unit_memory: int | None
    units_allocated: int | None
    holders: tuple[Holder, ...] | None
    health: str
    simulated: bool


@dataclass(frozen=True, slots=True)
class ResourceStatus:
    """One resource. `units` counts only what may be given out; `registered` False: see
    `problem`.
    """

    name: str
    units: int
    units_allocated: int | None
    largest_free_block: int | None
    message_bytes: int
    registered: bool
    problem: str | None


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """Everything. `driver_version` None: no driver answered yet; `holders_known`: the kubelet's
    podresources socket answers."""

    simulated: bool
    driver_version: str | None
    devices: tuple[DeviceStatus, ...]
    resources: tuple[ResourceStatus, ...]
    problems: tuple[str, ...]
    holders_known: bool

    def document(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


EMPTY = NodeStatus(
    simulated=False,
    driver_version=None,
    devices=(),
    resources=(),
    problems=(),
    holders_known=False,
)

#: (resource, device) → who holds how much.
Holders = Mapping[tuple[str, str], tuple[Holder, ...]]


def holders_of(pods: Sequence[PodDevices]) -> Holders:
    """Who holds units of what, of all resources whose ids have our form."""
    found: dict[tuple[str, str], list[Holder]] = {}
    for pod in pods:
        for container, resources in pod.containers.items():
            for resource, ids in resources.items():
                for uuid, count in units.count(ids).items():
                    holder = Holder(pod.namespace, pod.name, container, count)
                    found.setdefault((resource, uuid), []).append(holder)
    return {key: tuple(holders) for key, holders in found.items()}


def held_devices(pods: Sequence[PodDevices]) -> dict[str, set[str]]:
    """Devices of which pods hold units, by resource."""
    found: dict[str, set[str]] = {}
    for resource, uuid in holders_of(pods):
        found.setdefault(resource, set()).add(uuid)
    return found


def held_sets(pods: Sequence[PodDevices]) -> dict[str, list[frozenset[str]]]:
    """The exact units of each container, by resource, of all resources whose ids have our form."""
    found: dict[str, list[frozenset[str]]] = {}
    for pod in pods:
        for container in pod.containers.values():
            for resource, ids in container.items():
                if units.count(ids):
                    found.setdefault(resource, []).append(frozenset(ids))
    return found


def build(
    machine: Machine | None,
    plan: Plan,
    *,
    usage: Mapping[str, Usage],
    holders: Holders | None,
    registration: Mapping[str, str | None],
) -> NodeStatus:
    """Join what is known. `registration` is the problem by resource, None: registered; `holders`
    None: podresources does not answer.
    """
    served = {s.device.uuid: (r, s) for r in plan.resources for s in r.devices}
    devices = [s.device for _, s in served.values()]
    known = {device.uuid for device in devices}
    simulated = machine is not None and machine.simulated
    if machine is not None:
        devices += [device for device in devices_of(machine) if device.uuid not in known]
    devices.sort(key=lambda d: (d.gpu_index, d.gpu_instance or 0, d.compute_instance or 0))
    rows = tuple(
        _device(device, served.get(device.uuid), usage.get(device.uuid), holders, simulated)
        for device in devices
    )
    lost = [f"GPU {gpu.index} is lost: {gpu.reason}" for gpu in (machine.lost if machine else ())]
    return NodeStatus(
        simulated=simulated,
        driver_version=None if machine is None else machine.driver_version,
        devices=rows,
        resources=tuple(
            _resource(r, rows, registration.get(r.name, "the agent does not run"))
            for r in plan.resources
        ),
        problems=(*(problem.text for problem in plan.problems), *lost),
        holders_known=holders is not None,
    )


def _device(
    device: Device,
    served: tuple[Resource, ServedDevice] | None,
    usage: Usage | None,
    holders: Holders | None,
    simulated: bool,
) -> DeviceStatus:
    resource, offer = served if served is not None else (None, None)
    mine: tuple[Holder, ...] | None = ()
    if holders is None:
        mine = None
    elif resource is not None:
        mine = holders.get((resource.name, device.uuid), ())
    return DeviceStatus(
        uuid=device.uuid,
        model=device.model,
        kind="mig" if device.kind is DeviceKind.MIG else "gpu",
        profile=device.profile,
        gpu_index=device.gpu_index,
        memory_total=device.memory_total,
        memory_reserved=device.memory_reserved,
        memory_used=usage.memory_used if usage else None,
        processes=usage.processes if usage else None,
        resource=resource.name if resource else None,
        units=offer.units if offer else 0,
        unit_memory=resource.unit_memory(offer) if resource and offer else None,
        units_allocated=None if mine is None else sum(holder.units for holder in mine),
        holders=mine,
        health=(offer.unhealthy if offer else None) or "healthy",
        simulated=simulated,
    )


def _resource(
    resource: Resource, rows: Sequence[DeviceStatus], problem: str | None
) -> ResourceStatus:
    mine = [row for row in rows if row.resource == resource.name]
    healthy = [row for row in mine if row.health == "healthy"]
    allocated = [row.units_allocated for row in mine if row.units_allocated is not None]
    free = [row.units - row.units_allocated for row in healthy if row.units_allocated is not None]
    known = len(allocated) == len(mine)
    return ResourceStatus(
        name=resource.name,
        units=sum(row.units for row in healthy),
        units_allocated=sum(allocated) if known else None,
        largest_free_block=max(free, default=0) if known else None,
        message_bytes=resource.message_bytes,
        registered=problem is None,
        problem=problem,
    )
