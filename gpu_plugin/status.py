# SPDX-License-Identifier: Apache-2.0
"""This node's GPUs and who holds them, as one value: for `/status.json`, tables and metrics. Pure.

What could not be learned is None, never 0 and never an empty list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gpu_plugin.devices import LostGpu, Machine
from gpu_plugin.holders import Holder, Holders
from gpu_plugin.inventory import Device, DeviceKind, device_name, devices_of
from gpu_plugin.resources import Plan, Resource, ServedDevice


@dataclass(frozen=True, slots=True)
class Usage:
    """What the driver last told of one device; None: it did not."""

    memory_used: int | None
    processes: int | None


@dataclass(frozen=True, slots=True)
class Offer:
    """What one resource offers of a device. `allocated` None: unknown. `withheld` units are not
    offered now, because no pod can use them; `reserved` never are, and are not among `units`.
    """

    resource: str
    units: int
    unit_memory: int
    allocated: int | None
    withheld: int
    reserved: int


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """One device. `resource` None: no rule serves it; then it has 0 units.

    `kind` is gpu or mig, `profile` that of a slice. `health` is "healthy", or says what is wrong.
    `unit_memory` is what one unit stands for. Memory is in bytes. A device of size classes has
    several `offers`: then `resource` names them all, `unit_memory` is None, and `units` and
    `units_allocated` are sums of blocks of several sizes.
    """

    uuid: str
    model: str
    kind: str
    profile: str | None
    gpu_uuid: str
    gpu_index: int
    minor: int
    pci_bus_id: str
    numa_node: int | None
    gpu_instance: int | None
    compute_instance: int | None
    memory_total: int
    memory_reserved: int
    memory_used: int | None
    processes: int | None
    resource: str | None
    units: int
    unit_memory: int | None
    units_allocated: int | None
    holders: tuple[Holder, ...] | None
    offers: tuple[Offer, ...]
    health: str
    simulated: bool

    @property
    def name(self) -> str:
        """For people: `GPU 0`, `GPU 2 1g.10gb gi9`."""
        return device_name(self.gpu_index, self.profile, self.gpu_instance)


@dataclass(frozen=True, slots=True)
class ResourceStatus:
    """One resource. `units` counts only what may be given out, `units_withheld` what may not now
    although its device is well; `registered` False: see `problem`.
    """

    name: str
    units: int
    units_withheld: int
    units_allocated: int | None
    largest_free_block: int | None
    message_bytes: int
    registered: bool
    problem: str | None


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """Everything. `driver_version` None: no driver answered yet; `holders_known`: the kubelet's
    podresources socket answers. `idle`: this node has no GPU. `lost` are GPUs that do not answer,
    `unlisted` PCI addresses of some that the driver does not even list. `unmonitored` are GPUs
    whose XID events are not heard, and why.
    """

    simulated: bool
    driver_version: str | None
    devices: tuple[DeviceStatus, ...]
    resources: tuple[ResourceStatus, ...]
    problems: tuple[str, ...]
    holders_known: bool
    idle: bool = False
    lost: tuple[LostGpu, ...] = ()
    unlisted: tuple[str, ...] = ()
    unmonitored: Mapping[str, str] = field(default_factory=dict)

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

#: Resource → device → units that can be given out now; None: unknown.
Free = Mapping[str, Mapping[str, int] | None]


def build(
    machine: Machine | None,
    plan: Plan,
    *,
    usage: Mapping[str, Usage],
    holders: Holders | None,
    registration: Mapping[str, str | None],
    free: Free | None = None,
    notes: Sequence[str] = (),
    verdict: Callable[[Device], str | None] = lambda _: None,
) -> NodeStatus:
    """Join what is known. `plan` as it is offered (`capacity.offered`); `free` is what can be
    given out of it now. `registration` is the problem by resource, None: registered;
    `notes` are further problems; `holders` None: podresources does not answer. `verdict` says what
    is wrong with a device that no rule serves (of the others the plan knows it).
    """
    served: dict[str, list[tuple[Resource, ServedDevice]]] = {}
    for resource in plan.resources:
        for one in resource.devices:
            served.setdefault(one.device.uuid, []).append((resource, one))
    devices = [offers[0][1].device for offers in served.values()]
    known = {device.uuid for device in devices}
    simulated = machine is not None and machine.simulated
    if machine is not None:
        devices += [device for device in devices_of(machine) if device.uuid not in known]
    devices.sort(key=lambda d: (d.gpu_index, d.gpu_instance or 0, d.compute_instance or 0))
    rows = tuple(
        _device(
            device,
            served.get(device.uuid, ()),
            usage.get(device.uuid),
            holders,
            simulated=simulated,
            sick=None if device.uuid in known else verdict(device),
        )
        for device in devices
    )
    lost = machine.lost if machine else ()
    demands = [
        f"GPU {gpu.index} ({gpu.uuid}): the driver asks for {gpu.demand}"
        for gpu in (machine.gpus if machine else ())
        if gpu.demand is not None
    ]
    return NodeStatus(
        simulated=simulated,
        driver_version=None if machine is None else machine.driver_version,
        devices=rows,
        resources=tuple(
            _resource(
                r,
                holders,
                (free or {}).get(r.name),
                registration.get(r.name, "the agent does not run"),
            )
            for r in plan.resources
        ),
        problems=(
            *(problem.text for problem in plan.problems),
            *map(_loss, lost),
            *demands,
            *notes,
        ),
        holders_known=holders is not None,
        lost=lost,
    )


def with_driver(
    found: NodeStatus, *, idle: bool, unmonitored: Mapping[str, str], unlisted: Sequence[str]
) -> NodeStatus:
    """With what is known of the driver beside the machine."""
    problems = [f"{address} is an NVIDIA GPU that the driver does not list" for address in unlisted]
    return replace(
        found,
        idle=idle,
        unmonitored=dict(unmonitored),
        unlisted=tuple(unlisted),
        problems=(*found.problems, *problems),
    )


def _device(
    device: Device,
    served: Sequence[tuple[Resource, ServedDevice]],
    usage: Usage | None,
    holders: Holders | None,
    *,
    simulated: bool,
    sick: str | None,
) -> DeviceStatus:
    offers = tuple(_offer(resource, one, holders) for resource, one in served)
    unhealthy = next((one.unhealthy for _, one in served if one.unhealthy), sick)
    mine: tuple[Holder, ...] | None = None
    if holders is not None:
        mine = tuple(
            holder for offer in offers for holder in holders.get((offer.resource, device.uuid), ())
        )
    return DeviceStatus(
        uuid=device.uuid,
        model=device.model,
        kind="mig" if device.kind is DeviceKind.MIG else "gpu",
        profile=device.profile,
        gpu_uuid=device.gpu_uuid,
        gpu_index=device.gpu_index,
        minor=device.minor,
        pci_bus_id=device.pci_bus_id,
        numa_node=device.numa_node,
        gpu_instance=device.gpu_instance,
        compute_instance=device.compute_instance,
        memory_total=device.memory_total,
        memory_reserved=device.memory_reserved,
        memory_used=usage.memory_used if usage else None,
        processes=usage.processes if usage else None,
        resource=", ".join(offer.resource for offer in offers) or None,
        units=sum(offer.units for offer in offers),
        unit_memory=offers[0].unit_memory if len(offers) == 1 else None,
        units_allocated=None if mine is None else sum(holder.units for holder in mine),
        holders=mine,
        offers=offers,
        health=unhealthy or "healthy",
        simulated=simulated,
    )


def _offer(resource: Resource, served: ServedDevice, holders: Holders | None) -> Offer:
    return Offer(
        resource=resource.name,
        units=served.units,
        unit_memory=resource.unit_memory(served),
        allocated=_allocated(resource.name, served.device.uuid, holders),
        withheld=len(served.withheld),
        reserved=served.reserved,
    )


def _loss(gpu: LostGpu) -> str:
    name = "" if gpu.uuid is None else f" ({gpu.uuid})"
    return f"GPU {gpu.index}{name} is lost: {gpu.reason}"


def _allocated(resource: str, uuid: str, holders: Holders | None) -> int | None:
    if holders is None:
        return None
    return sum(holder.units for holder in holders.get((resource, uuid), ()))


def _resource(
    resource: Resource,
    holders: Holders | None,
    free: Mapping[str, int] | None,
    problem: str | None,
) -> ResourceStatus:
    uuids = [served.device.uuid for served in resource.devices]
    healthy = [served for served in resource.devices if served.unhealthy is None]
    allocated = [_allocated(resource.name, uuid, holders) for uuid in uuids]
    withheld = sum(len(served.withheld) for served in healthy)
    return ResourceStatus(
        name=resource.name,
        units=sum(served.units for served in healthy) - withheld,
        units_withheld=withheld,
        units_allocated=None if holders is None else sum(count or 0 for count in allocated),
        largest_free_block=None if free is None else largest_block(resource, free),
        message_bytes=resource.message_bytes,
        registered=problem is None,
        problem=problem,
    )


def largest_block(resource: Resource, free: Mapping[str, int]) -> int:
    """The largest request that one device can take, with so much free on each."""
    return min(max(free.values(), default=0), resource.most_units)
