# SPDX-License-Identifier: Apache-2.0
"""What a resource offers at one moment: its units, less those that nobody can use now. Pure.

Takes who holds what as given; knows no kubelet and no clock. `offered` is applied to a plan before
anybody sees it, so that `plan` on a laptop and the running agent tell the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace

from gpu_plugin import honest_capacity, size_classes
from gpu_plugin.resources import Resource, ServedDevice

#: Unit numbers in use, by resource and device.
InUse = Mapping[str, Mapping[str, Set[int]]]

_NOTHING: frozenset[int] = frozenset()


def offered(resource: Resource, in_use: InUse | None) -> Resource:
    """The resource with the units that are withheld now. `in_use` None: who holds what is not
    known (yet); then no block of a size class is offered, because another class may hold its
    memory, and nothing is withheld of the others.
    """
    if not resource.classes and not resource.honest_sizes:
        return resource
    devices = tuple(_as_offered(resource, served, in_use) for served in resource.devices)
    return resource if devices == resource.devices else replace(resource, devices=devices)


def left(resource: Resource, served: ServedDevice, in_use: InUse) -> int:
    """Bytes that no size class holds of a device with a pool; see `size_classes.left`."""
    assert served.pool is not None, "only the devices of size classes have a pool"
    taken = (
        (len(numbers_in_use(in_use, name, served.device.uuid)), size)
        for name, size in resource.classes
    )
    return size_classes.left(served.pool, taken)


def free(resource: Resource, in_use: InUse | None) -> dict[str, int] | None:
    """Units that can be given out now, by device; a device that is not healthy has 0. `resource`
    as offered. None: unknown.
    """
    if in_use is None:
        return None
    return {served.device.uuid: _free(resource, served, in_use) for served in resource.devices}


def numbers_in_use(in_use: InUse, resource: str, uuid: str) -> Set[int]:
    return in_use.get(resource, {}).get(uuid, _NOTHING)


def _free(resource: Resource, served: ServedDevice, in_use: InUse) -> int:
    if served.unhealthy is not None:
        return 0
    numbers = numbers_in_use(in_use, resource.name, served.device.uuid)
    taken = sum(1 for number in numbers if number < served.units)
    return max(0, served.units - taken - len(served.withheld - numbers))


def _as_offered(resource: Resource, served: ServedDevice, in_use: InUse | None) -> ServedDevice:
    if served.pool is None:
        return replace(served, withheld=_unusable(resource, served, in_use))
    if in_use is None:
        return replace(served, withheld=frozenset(range(served.units)), left=0)
    numbers = numbers_in_use(in_use, resource.name, served.device.uuid)
    bytes_left = left(resource, served, in_use)
    fitting = bytes_left // (resource.chunk or 1)
    withheld = size_classes.withheld(served.units, numbers, fitting)
    return replace(served, withheld=withheld, left=bytes_left)


def _unusable(resource: Resource, served: ServedDevice, in_use: InUse | None) -> frozenset[int]:
    if in_use is None:
        return _NOTHING
    numbers = numbers_in_use(in_use, resource.name, served.device.uuid)
    return honest_capacity.withheld(served.units, numbers, resource.honest_sizes)
