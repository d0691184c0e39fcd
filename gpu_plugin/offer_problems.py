# SPDX-License-Identifier: Apache-2.0
"""What is wrong with what a rule offers, in words that hold the arithmetic and the remedy. Pure.

Decides nothing: `resources` asks, and serves the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gpu_plugin import budget
from gpu_plugin.config import ResourceRule, check_resource_name
from gpu_plugin.container_config import resource_prefix
from gpu_plugin.inventory import Device
from gpu_plugin.selection import Problem

if TYPE_CHECKING:
    from gpu_plugin.resources import Resource

    #: The same devices in units of another size.
    WithChunk = Callable[[int], Resource]

_MIB, _GIB = 1 << 20, 1 << 30


def bad_name(name: str, devices: Sequence[Device]) -> Problem | None:
    """The API server would refuse it; None: it would not."""
    try:
        check_resource_name(name)
    except ValueError as error:
        lost = ", ".join(device.title for device in devices)
        served = f"; nobody serves {lost}" if lost else ""
        return Problem(name, f"{name} is not offered: {error}{served}", _uuids(devices))
    return None


def same_variables(names: Sequence[str]) -> list[Problem]:
    """Resources whose variables have one name: of two in one container the kubelet keeps the first
    value, and nobody can tell whose it is."""
    by_prefix: dict[str, list[str]] = {}
    for name in names:
        by_prefix.setdefault(resource_prefix(name), []).append(name)
    return [
        Problem(
            None,
            f"{' and '.join(alike)} have the same variables, {prefix}_…: in a container that asks "
            "for both, only the first one's are there; rename one of them",
            (),
        )
        for prefix, alike in by_prefix.items()
        if len(alike) > 1
    ]


def too_small(resource: Resource, rule: ResourceRule, devices: Sequence[Device]) -> list[Problem]:
    """Devices that have no unit. Of size classes each device needs to have room for one of them
    only, and each class for one device.
    """
    smallest = min((size for _, size in resource.classes), default=resource.chunk)
    if resource.classes and resource.devices and resource.chunk != smallest:
        return []
    what = "block" if resource.classes else "chunk"
    return [
        Problem(
            resource.name,
            f"{resource.name}: {device.title} has no unit: {size_text(device.memory_total)} "
            f"- {size_text(device.memory_reserved)} driver - {size_text(rule.reserved)} reserved, "
            f"x {rule.overcommit:g}, is less than a {what} of {size_text(resource.chunk or 0)}",
            (device.uuid,),
        )
        for device in devices
    ]


def too_many(resource: Resource, with_chunk: WithChunk) -> Problem:
    """Its list would be cut off by the kubelet."""
    size = resource.message_bytes
    units = sum(served.units for served in resource.devices)
    fitting = budget.smallest_fitting_chunk(
        resource.chunk or 0,
        lambda chunk: with_chunk(chunk).message_bytes <= budget.MESSAGE_LIMIT,
    )
    return Problem(
        resource.name,
        f"{resource.name} is not offered: {units} units take {size} bytes in one message, and the "
        f"kubelet takes {budget.MESSAGE_LIMIT} ({size / units:.1f} bytes a unit when unhealthy); "
        f"{_remedy(resource, fitting)} is the smallest that fits",
        _uuids([served.device for served in resource.devices]),
    )


def large(resource: Resource, with_chunk: WithChunk) -> list[Problem]:
    """It is offered all the same: what is large costs others, not us."""
    devices = _uuids([served.device for served in resource.devices])
    most, sizes = resource.most_units, resource.sizes
    texts = []
    if most > budget.MANY_UNITS:
        fitting = budget.smallest_fitting_chunk(
            resource.chunk or 0,
            lambda chunk: with_chunk(chunk).most_units <= budget.MANY_UNITS,
        )
        texts.append(
            f"{resource.name}: one container can hold {most} units, and more than "
            f"{budget.MANY_UNITS} make everything about its pod large: {sizes.pod_status} bytes in "
            f"its status (Kubernetes 1.36 and later; etcd takes {budget.OBJECT_LIMIT} for a pod); "
            f"{_remedy(resource, fitting)} gives at most {budget.MANY_UNITS}"
        )
    if sizes.podresources > budget.MESSAGE_LIMIT:
        texts.append(
            f"{resource.name}: podresources answers {sizes.podresources} bytes when all units are "
            f"held, and a client with gRPC's default limit of {budget.MESSAGE_LIMIT} "
            "(dcgm-exporter, for one) then sees no pods at all; use a larger chunk"
        )
    return [Problem(resource.name, text, devices) for text in texts]


def _remedy(resource: Resource, size: int) -> str:
    """In whole MiB, and not rounded: it is to be written into the configuration."""
    text = f"{size // _GIB}GiB" if size % _GIB == 0 else f"{size // _MIB}MiB"
    return f"a block of {text}" if resource.classes else f"chunk: {text}"


def _uuids(devices: Sequence[Device]) -> tuple[str, ...]:
    return tuple(device.uuid for device in devices)


def size_text(size: int) -> str:
    """Bytes for people: `1 GiB`, `31.75 GiB`, `512 MiB`, written as the configuration takes
    them.
    """
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)):
        if size >= factor:
            return f"{size / factor:.2f}".rstrip("0").rstrip(".") + unit
    return f"{size}B" if size else "0"
