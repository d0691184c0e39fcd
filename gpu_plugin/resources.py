# SPDX-License-Identifier: Apache-2.0
"""Rules and a machine → what is offered: units per device, within what a message can hold. Pure.

`plan` decides for a machine as it is now; what pods hold of another one is for `availability`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial

from gpu_plugin import budget, offer_problems
from gpu_plugin.config import Placement, ResourceRule
from gpu_plugin.devices import Machine
from gpu_plugin.inventory import Device, devices_of, without_devices
from gpu_plugin.offer_problems import size_text as size_text
from gpu_plugin.selection import Problem, assign


@dataclass(frozen=True, slots=True)
class ServedDevice:
    """A device under a resource. `unhealthy` says why its units must not be given out (None:
    they may).

    `nodes` are its device nodes, relative to the host's `/dev`; none on a simulated machine.
    `reserved` is how many units the rule keeps back, beside `units`. `pool` is the memory that all
    size classes share, in bytes (None: the units are this resource's own). `withheld` are units
    that are not offered now although the device is well, and `left` is what is free of the pool,
    in bytes; see `capacity`.
    """

    device: Device
    units: int
    unhealthy: str | None = None
    nodes: tuple[str, ...] = ()
    reserved: int = 0
    pool: int | None = None
    withheld: frozenset[int] = frozenset()
    left: int | None = None


@dataclass(frozen=True, slots=True)
class Resource:
    """Everything the kubelet can be told about one resource. `chunk` None: a unit is a whole
    device.

    `rule` is the name of its rule. `classes` are the (name, bytes) of all size classes that share
    its devices, itself among them; none for a resource with devices of its own. `honest_sizes` is
    what pods ask for, in units; none: every free unit is offered.
    """

    name: str
    rule: str
    chunk: int | None
    placement: Placement
    split: bool
    devices: tuple[ServedDevice, ...] = ()
    simulated: bool = False
    classes: tuple[tuple[str, int], ...] = ()
    honest_sizes: tuple[int, ...] = ()

    @property
    def message_bytes(self) -> int:
        """Size of its list when every unit is unhealthy."""
        return budget.message_bytes(self._listed())

    @property
    def sizes(self) -> budget.Sizes:
        """What it costs the kubelet, at worst."""
        return budget.sizes(self.name, self._listed(), split=self.split)

    @property
    def most_units(self) -> int:
        """What one container can hold at most."""
        counts = [served.units for served in self.devices]
        if self.split:
            return sum(counts)
        return min(1, max(counts, default=0)) if self.classes else max(counts, default=0)

    def _listed(self) -> Iterable[tuple[str, int, int | None]]:
        return ((s.device.uuid, s.units, self.numa_node(s)) for s in self.devices)

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
    """One entry per rule, also for one that serves nothing; one per size class of a rule."""

    resources: tuple[Resource, ...]
    problems: tuple[Problem, ...]

    @property
    def serving(self) -> dict[str, str]:
        """Rule by device."""
        return {
            served.device.uuid: resource.rule
            for resource in self.resources
            for served in resource.devices
        }


def units_of(rule: ResourceRule, device: Device) -> int:
    """floor((total - driver reserved - reserved) x overcommit / chunk); 1 for an exclusive rule."""
    return 1 if rule.exclusive else pool_of(rule, device) // rule.chunk


def pool_of(rule: ResourceRule, device: Device, *, reserved: int | None = None) -> int:
    """Bytes of a device that may be given out; `reserved` instead of the rule's own."""
    kept = rule.reserved if reserved is None else reserved
    usable = device.memory_total - device.memory_reserved - kept
    # The text of the number, not its binary value: 1.1 x 10 GiB is 11 units, not 10.
    return max(0, math.floor(usable * Fraction(str(rule.overcommit))))


def resources_of(rule: ResourceRule) -> tuple[Resource, ...]:
    """The resources of a rule before any device was seen: one, or one for each size class."""
    classes = tuple(
        (name, size) for name, size in rule.sizes.items() if rule.blocks is not None and size
    )
    honest = rule.honest_capacity
    return tuple(
        Resource(
            name=name,
            rule=rule.name,
            chunk=size,
            placement=rule.placement,
            split=rule.split,
            classes=classes,
            honest_sizes=tuple(sorted(set(honest.sizes))) if honest else (),
        )
        for name, size in rule.sizes.items()
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
    problems += offer_problems.same_variables([name for rule in rules for name in rule.sizes])
    resources: list[Resource] = []
    for rule in rules:
        mine = assignment.devices[rule.name]
        for empty in resources_of(rule):
            resource, found = _offer(
                replace(empty, simulated=machine.simulated), rule, mine, nodes or {}
            )
            resources.append(resource)
            problems += found
    return Plan(tuple(resources), tuple(problems))


def _offer(
    resource: Resource,
    rule: ResourceRule,
    devices: Sequence[Device],
    nodes: Mapping[str, tuple[str, ...]],
) -> tuple[Resource, list[Problem]]:
    if (problem := offer_problems.bad_name(resource.name, devices)) is not None:
        return resource, [problem]
    served = [_serve(resource, rule, device, nodes.get(device.uuid, ())) for device in devices]
    found = replace(resource, devices=tuple(one for one in served if one.units > 0))
    small = [one.device for one in served if one.units == 0]
    problems = offer_problems.too_small(found, rule, small)
    with_chunk = partial(_cut, found, rule)
    if found.message_bytes > budget.MESSAGE_LIMIT:
        return resource, [*problems, offer_problems.too_many(found, with_chunk)]
    return found, [*problems, *offer_problems.large(found, with_chunk)]


def _serve(
    resource: Resource, rule: ResourceRule, device: Device, nodes: tuple[str, ...]
) -> ServedDevice:
    if resource.chunk is None:
        return ServedDevice(device, 1, nodes=nodes)
    pool = pool_of(rule, device)
    units = pool // resource.chunk
    return ServedDevice(
        device,
        units,
        nodes=nodes,
        reserved=pool_of(rule, device, reserved=0) // resource.chunk - units,
        pool=pool if resource.classes else None,
    )


def _cut(resource: Resource, rule: ResourceRule, chunk: int) -> Resource:
    """The same devices in units of another size."""
    cut = replace(resource, chunk=chunk)
    devices = tuple(_serve(cut, rule, served.device, ()) for served in resource.devices)
    return replace(cut, devices=devices)
