# SPDX-License-Identifier: Apache-2.0
"""Rules and a machine → what is offered: units per device, within what a message can hold. Pure.

`plan` decides for a machine as it is now; `keep_held` adds what is gone but not yet given back, so
that no unit vanishes or moves under a running pod.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from fractions import Fraction

from gpu_plugin import budget
from gpu_plugin.config import Placement, ResourceRule
from gpu_plugin.devices import Machine
from gpu_plugin.inventory import Device, devices_of, without_devices
from gpu_plugin.selection import Problem, assign


@dataclass(frozen=True, slots=True)
class ServedDevice:
    """A device under a resource. `unhealthy` says why its units must not be given out (None:
    they may).

    `nodes` are its device nodes, relative to the host's `/dev`; none on a simulated machine.
    """

    device: Device
    units: int
    unhealthy: str | None = None
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resource:
    """Everything the kubelet can be told about one resource. `chunk` None: a unit is a whole
    device.
    """

    name: str
    chunk: int | None
    placement: Placement
    split: bool
    devices: tuple[ServedDevice, ...] = ()
    simulated: bool = False

    @property
    def message_bytes(self) -> int:
        """Size of its list when every unit is unhealthy."""
        return budget.message_bytes(
            (served.device.uuid, served.units, self.numa_node(served)) for served in self.devices
        )

    def numa_node(self, served: ServedDevice) -> int | None:
        """What the kubelet is told about where a device is."""
        return served.device.numa_node if self.placement is Placement.NUMA else None

    def unit_memory(self, served: ServedDevice) -> int:
        """Bytes that one unit of this device stands for."""
        if self.chunk is not None:
            return self.chunk
        return served.device.memory_total - served.device.memory_reserved


@dataclass(frozen=True, slots=True)
class Plan:
    """One entry per rule, also for one that serves nothing."""

    resources: tuple[Resource, ...]
    problems: tuple[Problem, ...]

    @property
    def serving(self) -> dict[str, str]:
        """Resource by device."""
        return {
            served.device.uuid: resource.name
            for resource in self.resources
            for served in resource.devices
        }


def units_of(rule: ResourceRule, device: Device) -> int:
    """floor((total - driver reserved - reserved) x overcommit / chunk); 1 for an exclusive rule."""
    if rule.exclusive:
        return 1
    usable = device.memory_total - device.memory_reserved - rule.reserved
    # The text of the number, not its binary value: 1.1 x 10 GiB is 11 units, not 10.
    return max(0, math.floor(usable * Fraction(str(rule.overcommit)) / rule.chunk))


def nothing(rule: ResourceRule) -> Resource:
    """The resource of a rule before any device was seen."""
    return Resource(
        name=rule.name,
        chunk=None if rule.exclusive else rule.chunk,
        placement=rule.placement,
        split=rule.split,
    )


def plan(
    rules: Sequence[ResourceRule],
    machine: Machine,
    *,
    earlier: Mapping[str, str] | None = None,
    nodes: Mapping[str, tuple[str, ...]] | None = None,
) -> Plan:
    """What to offer on this machine. `earlier` as for `assign`; `nodes` are device nodes by
    UUID.
    """
    assignment = assign(rules, devices_of(machine), earlier)
    problems = [
        Problem(
            resource=None,
            text=f"{gpu.uuid} ({gpu.model}) is in MIG mode and has no slices: nothing of it can be "
            "served; create slices, or switch MIG off",
            devices=(gpu.uuid,),
        )
        for gpu in without_devices(machine)
    ]
    problems += assignment.problems
    resources: list[Resource] = []
    for rule in rules:
        resource, found = _offer(
            rule, assignment.devices[rule.name], nodes or {}, machine.simulated
        )
        resources.append(resource)
        problems += found
    return Plan(tuple(resources), tuple(problems))


def keep_held(
    now: Plan, before: Plan, machine: Machine, held: Mapping[str, Set[str]] | None
) -> Plan:
    """Devices that `before` served and that are no longer there stay listed as unhealthy: while
    their GPU is lost, while pods hold units of them, or while that is unknown. `held` is devices
    by resource (None: nobody could tell).
    """
    lost = {gpu.uuid: gpu.reason for gpu in machine.lost if gpu.uuid is not None}
    serving = now.serving
    former = {resource.name: resource for resource in before.resources}

    def kept(resource: Resource) -> Resource:
        gone = [
            replace(served, unhealthy=reason)
            for served in (former[resource.name].devices if resource.name in former else ())
            if served.device.uuid not in serving
            and (reason := _why_kept(served.device, resource.name, lost, held)) is not None
        ]
        whole = replace(resource, devices=_in_order([*resource.devices, *gone]))
        return whole if whole.message_bytes <= budget.MESSAGE_LIMIT else resource

    return replace(now, resources=tuple(kept(resource) for resource in now.resources))


def _why_kept(
    device: Device, name: str, lost: Mapping[str, str], held: Mapping[str, Set[str]] | None
) -> str | None:
    if device.gpu_uuid in lost:
        return f"lost: {lost[device.gpu_uuid]}"
    if held is None:
        return "gone, and whether pods hold it is unknown"
    return "gone, and still held by pods" if device.uuid in held.get(name, ()) else None


def _in_order(devices: Sequence[ServedDevice]) -> tuple[ServedDevice, ...]:
    def position(served: ServedDevice) -> tuple[int, int, int]:
        device = served.device
        return device.gpu_index, device.gpu_instance or 0, device.compute_instance or 0

    return tuple(sorted(devices, key=position))


def _offer(
    rule: ResourceRule,
    devices: Sequence[Device],
    nodes: Mapping[str, tuple[str, ...]],
    simulated: bool,
) -> tuple[Resource, list[Problem]]:
    served = [
        ServedDevice(device, units, nodes=nodes.get(device.uuid, ()))
        for device in devices
        if (units := units_of(rule, device)) > 0
    ]
    resource = replace(nothing(rule), devices=tuple(served), simulated=simulated)
    problems = [_too_small(rule, device) for device in devices if units_of(rule, device) == 0]
    size = resource.message_bytes
    if size > budget.MESSAGE_LIMIT:
        problems.append(_too_many(rule, resource, size))
        resource = replace(resource, devices=())
    return resource, problems


def _too_small(rule: ResourceRule, device: Device) -> Problem:
    return Problem(
        rule.name,
        f"{rule.name}: {device.title} has no unit: {size_text(device.memory_total)} "
        f"- {size_text(device.memory_reserved)} driver - {size_text(rule.reserved)} reserved, "
        f"x {rule.overcommit:g}, is less than a chunk of {size_text(rule.chunk)}",
        (device.uuid,),
    )


def _too_many(rule: ResourceRule, resource: Resource, size: int) -> Problem:
    def size_with(chunk: int) -> int:
        smaller = rule.model_copy(update={"chunk": chunk})
        return budget.message_bytes(
            (s.device.uuid, units_of(smaller, s.device), resource.numa_node(s))
            for s in resource.devices
        )

    units = sum(served.units for served in resource.devices)
    fitting = budget.smallest_fitting_chunk(rule.chunk, size_with)
    return Problem(
        rule.name,
        f"{rule.name} is not offered: {units} units take {size} bytes in one message, and the "
        f"kubelet takes {budget.MESSAGE_LIMIT} ({size / units:.1f} bytes a unit when unhealthy); "
        f"chunk: {size_text(fitting)} is the smallest that fits",
        tuple(served.device.uuid for served in resource.devices),
    )


def size_text(size: int) -> str:
    """Bytes for people: `1 GiB`, `31.75 GiB`, `512 MiB`, written as the configuration takes
    them.
    """
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)):
        if size >= factor:
            return f"{size / factor:.2f}".rstrip("0").rstrip(".") + unit
    return f"{size}B" if size else "0"
