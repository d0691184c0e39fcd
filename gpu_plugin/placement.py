# SPDX-License-Identifier: Apache-2.0
"""Which units a container gets: on one device, or a refusal with the numbers. Pure and
deterministic.

A short answer would be filled up by the kubelet with random units, a silent spread over devices. So
the answer is exactly what was asked, or an error, which rejects the pod with our own words.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace

from agents.errors import AgentError
from gpu_plugin import units
from gpu_plugin.config import Placement
from gpu_plugin.resources import Resource, ServedDevice

#: Why a container is refused: the labels of the metric.
REASONS = (
    "bad_request",
    "no_block",
    "no_single_device",
    "not_enough",
    "several_blocks",
    "several_devices",
    "unhealthy",
    "unknown_unit",
)


class Refused(AgentError):
    """A container cannot have what it asks for. `reason` is one of `REASONS`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def choose(
    resource: Resource, available: Iterable[str], must_include: Iterable[str], size: int
) -> tuple[str, ...]:
    """Exactly `size` unit ids out of `available`, among them all of `must_include`, sorted by
    device and number. `resource` as it is offered now (`capacity.offered`). Raises Refused.
    """
    required = _known(resource, units.group(must_include))
    free = _Free(resource, available, required)
    included = sum(len(numbers) for numbers in required.values())
    if included > size:
        raise Refused("bad_request", f"asked {size} of {resource.name}, {included} are prescribed")
    _check_blocks(resource, size)
    counts = _counts(resource, free, list(required), size - included, size)
    chosen: dict[str, list[int]] = {}
    for served in resource.devices:
        uuid = served.device.uuid
        fixed = required.get(uuid, set())
        if uuid in counts or fixed:
            others = heapq.nsmallest(counts[uuid], free.numbers[uuid]) if uuid in counts else ()
            chosen[uuid] = sorted([*fixed, *others])
    return units.ungroup(chosen)


def _counts(
    resource: Resource, free: _Free, started: Sequence[str], more: int, size: int
) -> dict[str, int]:
    """How many further units each device gives. Numbers are read of chosen devices only, and what
    they reveal may change the choice; nobody is refused on numbers that were not read.
    """
    while True:
        try:
            counts = _spread_over(resource, free.room, started, more, size)
        except Refused:
            if all(free.read(uuid) for uuid in list(free.room)):
                raise
        else:
            if all(free.read(uuid) for uuid in counts):
                return counts


class _Free:
    """What the kubelet says is free. `room` is how many units each device can give, beside those
    that are required; `numbers` are theirs, once they were read.
    """

    def __init__(
        self, resource: Resource, available: Iterable[str], required: Mapping[str, Set[int]]
    ) -> None:
        self._served = {
            served.device.uuid: served
            for served in resource.devices
            if served.unhealthy is None or served.device.uuid in required
        }
        self._ids = units.sort_out(available, self._served)
        self._required = required
        self.numbers: dict[str, set[int]] = {}
        self.room = {
            uuid: len(self._ids.get(uuid, ()))
            for uuid in self._served
            if uuid in self._ids or uuid in required
        }
        for uuid, served in self._served.items():
            if uuid in required or (served.pool is not None and uuid in self.room):
                self.read(uuid)

    def read(self, uuid: str) -> bool:
        """Whether there were as many as was thought: neither twice the same, nor one that is not
        offered (any more).
        """
        if uuid not in self.numbers:
            served = self._served[uuid]
            numbers = units.numbers(uuid, self._ids.get(uuid, ()))
            numbers = {number for number in numbers if number < served.units}
            if served.pool is not None:
                numbers -= served.withheld
            self.numbers[uuid] = numbers - self._required.get(uuid, set())
        before, self.room[uuid] = self.room[uuid], len(self.numbers[uuid])
        return before == self.room[uuid]


def _check_blocks(resource: Resource, size: int) -> None:
    if resource.classes and size > 1 and not resource.split:
        raise Refused(
            "several_blocks",
            f"asked {size} of {resource.name}, and a container takes one block; "
            "ask for a larger size, or have the rule say split: true",
        )


def check(resource: Resource, ids: Iterable[str]) -> dict[ServedDevice, list[int]]:
    """What Allocate was given, by device in the order of the resource. Raises Refused for a unit
    that is not offered, is unhealthy, or for several devices without `split`.
    """
    grouped = _known(resource, units.group(ids))
    if not grouped:
        raise Refused("bad_request", f"no unit of {resource.name} was asked for")
    _check_blocks(resource, sum(len(numbers) for numbers in grouped.values()))
    if len(grouped) > 1 and not resource.split:
        raise Refused(
            "several_devices",
            f"the units of {resource.name} lie on {len(grouped)} devices "
            f"({_listed(grouped)}), and a request may not span devices",
        )
    result: dict[ServedDevice, list[int]] = {}
    for served in resource.devices:
        numbers = grouped.get(served.device.uuid)
        if numbers is None:
            continue
        if served.unhealthy is not None:
            raise Refused("unhealthy", f"{served.device.uuid} is unhealthy: {served.unhealthy}")
        result[served] = sorted(numbers)
    return result


def _known(resource: Resource, grouped: Mapping[str, set[int]]) -> dict[str, set[int]]:
    """In the order of the resource. Raises Refused for a unit that it does not offer."""
    offered = _offered(resource, grouped)
    for uuid, numbers in grouped.items():
        if unknown := numbers - offered.get(uuid, set()):
            raise Refused(
                "unknown_unit",
                f"{units.unit_id(uuid, min(unknown))} is not a unit of {resource.name} any more",
            )
    return offered


def _offered(resource: Resource, grouped: Mapping[str, set[int]]) -> dict[str, set[int]]:
    """In the order of the resource, without the units that it does not offer (any more)."""
    found: dict[str, set[int]] = {}
    for served in resource.devices:
        numbers = grouped.get(served.device.uuid, set())
        if numbers and max(numbers) >= served.units:
            numbers = {number for number in numbers if number < served.units}
        if numbers:
            found[served.device.uuid] = numbers
    return found


def _spread_over(
    resource: Resource, room: Mapping[str, int], started: Sequence[str], more: int, size: int
) -> dict[str, int]:
    """How many further units each device gives. `started` are the devices that must be included."""
    if len(started) > 1 and not resource.split:
        raise Refused(
            "several_devices",
            f"asked {size} of {resource.name}, {size - more} are prescribed on {len(started)} "
            f"devices ({_listed(started)}), and a request may not span devices",
        )
    if not more:
        return {}
    if len(started) == 1 and room[started[0]] >= more:
        return {started[0]: more}
    if not started and (one := _one_device(resource, room, more)) is not None:
        return {one: more}
    if resource.split and sum(room.values()) >= more:
        return _several_devices(resource, room, started, more)
    raise _refusal(resource, room, started, more, size)


def _one_device(resource: Resource, room: Mapping[str, int], size: int) -> str | None:
    """The best device that has it all; of equals, the first in the order of the resource. Blocks
    of a size class are fitted by the memory that is left beside them.
    """
    left = {served.device.uuid: served.left for served in resource.devices}

    def rank(uuid: str) -> int:
        return room[uuid] if (bytes_left := left[uuid]) is None else bytes_left

    fitting = [uuid for uuid, free in room.items() if free >= size]
    if not fitting:
        return None
    best = max if resource.placement is Placement.SPREAD else min
    return best(fitting, key=rank)


def _several_devices(
    resource: Resource, room: Mapping[str, int], started: Sequence[str], more: int
) -> dict[str, int]:
    """Those already begun, then whole devices, the largest first; the rest where it fits best, or
    else from the largest blocks. With `numa`, on one node if one has it all.
    """
    counts: dict[str, int] = {}

    def take(uuid: str, wanted: int) -> int:
        counts[uuid] = min(wanted, room[uuid])
        return wanted - counts[uuid]

    for uuid in started:
        more = take(uuid, more)
    left = {uuid: free for uuid, free in room.items() if uuid not in started and free}
    left = _on_one_node(resource, left, more)
    units_of = {served.device.uuid: served.units for served in resource.devices}
    packed = replace(resource, placement=Placement.PACK)
    while more:
        whole = [uuid for uuid, free in left.items() if free == units_of[uuid] <= more]
        last = None if whole else _one_device(packed, left, more)
        uuid = last if last is not None else max(whole or left, key=lambda uuid: left[uuid])
        more = take(uuid, more)
        del left[uuid]
    return counts


def _on_one_node(resource: Resource, room: dict[str, int], size: int) -> dict[str, int]:
    if resource.placement is not Placement.NUMA:
        return room
    nodes: dict[int | None, dict[str, int]] = {}
    for served in resource.devices:
        uuid = served.device.uuid
        if uuid in room:
            nodes.setdefault(served.device.numa_node, {})[uuid] = room[uuid]
    fitting = [node for node in nodes.values() if sum(node.values()) >= size]
    return min(fitting, key=lambda node: sum(node.values()), default=room)


def _refusal(
    resource: Resource, room: Mapping[str, int], started: Sequence[str], more: int, size: int
) -> Refused:
    total = sum(room.values()) + size - more
    asked = f"asked {size} of {resource.name}"
    if total < size:
        return Refused("not_enough", f"{asked}, {total} are free")
    if started:
        return Refused(
            "no_single_device",
            f"{asked}, of which {size - more} are prescribed on {_listed(started)}; "
            f"{room[started[0]]} more are free there, and a request may not span devices",
        )
    largest = max(room, key=lambda uuid: room[uuid])
    return Refused(
        "no_single_device",
        f"{asked}, largest free block {room[largest]} on {largest} "
        f"({total} free on {sum(1 for free in room.values() if free)} devices, "
        "and a request may not span devices)",
    )


def _listed(uuids: Iterable[str]) -> str:
    return ", ".join(sorted(uuids))
