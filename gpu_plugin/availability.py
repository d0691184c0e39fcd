# SPDX-License-Identifier: Apache-2.0
"""Which devices of a plan must not be given out now: gone, held under other terms, or sick. Pure.

No memory is sold twice. What pods hold stays theirs, also when the device under it is gone or is
served otherwise now: until they end, the ids stay listed as unhealthy, and so does whatever took
the device's place. An unhealthy device costs running pods nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gpu_plugin import budget, units
from gpu_plugin.allocation import Hardware
from gpu_plugin.capacity import InUse
from gpu_plugin.devices import Machine
from gpu_plugin.inventory import Device, DeviceKind, devices_of
from gpu_plugin.resources import Plan, Resource, ServedDevice

if TYPE_CHECKING:  # it loads gRPC, which a look at a machine does not need
    from agents.podresources import PodDevices

#: Resource → device → the highest number of a unit that pods hold, plus 1.
Holdings = Mapping[str, Mapping[str, int]]

#: (resource, device) → what a former run of the agent noted of it.
Remembered = Mapping[tuple[str, str], Hardware]

_IN_ITS_PLACE = "stands in the place of a device that is gone and that pods still hold"


def foreign(pods: Sequence[PodDevices], ours: Container[str]) -> Holdings:
    """What pods hold of resources that are not ours (any more): our GPUs may be behind them."""
    found: dict[str, dict[str, int]] = {}
    for pod in pods:
        for container in pod.containers.values():
            for resource, ids in container.items():
                if resource in ours:
                    continue
                mine = found.setdefault(resource, {})
                for id_ in ids:
                    uuid, number = _unit(id_)
                    mine[uuid] = max(mine.get(uuid, 0), number + 1)
    return found


def reach(in_use: InUse) -> Holdings:
    """From unit numbers."""
    return {
        resource: {uuid: max(numbers) + 1 for uuid, numbers in devices.items() if numbers}
        for resource, devices in in_use.items()
    }


def still_held(remembered: Remembered, held: Holdings) -> Remembered:
    """What is worth remembering of former runs of the agent: of what pods hold yet."""
    return {key: found for key, found in remembered.items() if key[1] in held.get(key[0], ())}


def keep(
    now: Plan,
    before: Plan,
    machine: Machine,
    held: Holdings | None,
    remembered: Remembered | None = None,
) -> Plan:
    """`now` with the devices of `before` that are gone but not given up yet, and with everything
    marked unhealthy that pods hold in another form. `held` None: nobody could tell yet;
    `remembered` is what former runs of the agent gave out.
    """
    lost = {gpu.uuid: gpu.reason for gpu in machine.lost if gpu.uuid is not None}
    known = still_held(remembered or {}, held or {})
    there = {device.uuid for device in devices_of(machine)}
    former = {resource.name: list(resource.devices) for resource in before.resources}
    for name, served in _revived(known, machine, held or {}):
        if all(served.device.uuid != each.device.uuid for each in former.setdefault(name, [])):
            former[name].append(served)
    gone = {
        resource.name: _gone(resource, former.get(resource.name, ()), now, lost, held)
        for resource in now.resources
    }
    absent = {
        served.device.uuid: _hardware(served.device)
        for devices in gone.values()
        for served in devices
    }
    absent = {uuid: found for (_, uuid), found in known.items()} | absent
    missing = [
        found for uuid, found in absent.items() if found.gpu_uuid not in lost and uuid not in there
    ]
    judge = _Judge(now, before, machine, held or {}, missing, known)
    return replace(
        now,
        resources=tuple(
            _with(
                replace(resource, devices=tuple(judge.marked(resource))),
                gone[resource.name],
            )
            for resource in now.resources
        ),
    )


def without_sick(plan: Plan, verdict: Callable[[Device], str | None]) -> Plan:
    """The plan, with devices that `verdict` has something against marked unhealthy."""

    def judged(served: ServedDevice) -> ServedDevice:
        if served.unhealthy is not None or (reason := verdict(served.device)) is None:
            return served
        return replace(served, unhealthy=reason)

    return replace(
        plan,
        resources=tuple(
            replace(resource, devices=tuple(map(judged, resource.devices)))
            for resource in plan.resources
        ),
    )


class _Judge:
    """Whether what pods hold forbids to give out a device that is there."""

    def __init__(
        self,
        now: Plan,
        before: Plan,
        machine: Machine,
        held: Holdings,
        absent: Sequence[Hardware],
        remembered: Remembered,
    ) -> None:
        self._now, self._held, self._absent = now, held, absent
        self._remembered = remembered
        self._size = {gpu.uuid: gpu.memory.total for gpu in machine.gpus}
        self._settled = {
            served.device.uuid
            for resource in before.resources
            for served in resource.devices
            if served.unhealthy != _IN_ITS_PLACE
        }

    def marked(self, resource: Resource) -> Iterator[ServedDevice]:
        ours = {each.name for each in self._now.resources if each.rule == resource.rule}
        for served in resource.devices:
            yield replace(served, unhealthy=self._objection(resource, served, ours))

    def _objection(self, resource: Resource, served: ServedDevice, ours: set[str]) -> str | None:
        uuid = served.device.uuid
        others = [name for name, held in self._held.items() if uuid in held and name not in ours]
        if others:
            return f"pods still hold it as {', '.join(sorted(others))}"
        reach = self._held.get(resource.name, {}).get(uuid, 0)
        if reach > served.units:
            return f"pods hold units up to number {reach - 1}, and it has only {served.units} now"
        former, unit = self._remembered.get((resource.name, uuid)), resource.unit_memory(served)
        if former is not None and former.unit_memory != unit:
            return f"pods hold units of {former.unit_memory} bytes of it, and one has {unit} now"
        mine = [each for each in self._absent if each.gpu_uuid == served.device.gpu_uuid]
        return _IN_ITS_PLACE if mine and self._overlaps(served.device, mine) else None

    def _overlaps(self, device: Device, absent: Sequence[Hardware]) -> bool:
        """Whether it has, or may have, hardware of a device that is gone."""
        same = {None, device.gpu_instance}  # the whole GPU, or the same instance
        if device.gpu_instance is None or any(each.gpu_instance in same for each in absent):
            return True
        # Where instances lie on the GPU is not told. Those that were there beside the other are
        # surely apart from it; of new ones we know it when all of them fit side by side.
        if device.uuid in self._settled or self._is_held(device):
            return False
        there = {
            served.device.uuid: served.device.memory_total
            for resource in self._now.resources
            for served in resource.devices
            if served.device.gpu_uuid == device.gpu_uuid
        }
        needed = sum(there.values()) + sum(each.memory for each in absent)
        return needed > self._size.get(device.gpu_uuid, 0)

    def _is_held(self, device: Device) -> bool:
        return any(device.uuid in held for held in self._held.values())


def _gone(
    resource: Resource,
    former: Sequence[ServedDevice],
    now: Plan,
    lost: Mapping[str, str],
    held: Holdings | None,
) -> list[ServedDevice]:
    """Devices that this resource had, has no more, and must keep in its list."""
    here = {served.device.uuid for served in resource.devices}
    serving = now.serving

    def why(device: Device) -> str | None:
        if device.gpu_uuid in lost:
            return f"lost: {lost[device.gpu_uuid]}"
        other = serving.get(device.uuid)
        what = "gone" if other is None else f"served as {other} now"
        if held is None:
            return f"{what}, and whether pods hold it is unknown"
        return (
            f"{what}, and still held by pods"
            if device.uuid in held.get(resource.name, ())
            else None
        )

    return [
        replace(served, unhealthy=reason)
        for served in former
        if served.device.uuid not in here and (reason := why(served.device)) is not None
    ]


def _with(resource: Resource, gone: Sequence[ServedDevice]) -> Resource:
    """Unless the list would then be too long for the kubelet."""
    whole = replace(resource, devices=_in_order([*resource.devices, *gone]))
    return whole if whole.message_bytes <= budget.MESSAGE_LIMIT else resource


def _revived(
    known: Remembered, machine: Machine, held: Holdings
) -> Iterator[tuple[str, ServedDevice]]:
    """What former runs served and pods still hold, as far as it can be told without it."""
    gpus = {gpu.uuid: gpu for gpu in machine.gpus}
    for (name, uuid), found in known.items():
        if (gpu := gpus.get(found.gpu_uuid)) is not None:
            device = Device(
                uuid=uuid,
                kind=DeviceKind.GPU if found.gpu_instance is None else DeviceKind.MIG,
                model=gpu.model,
                gpu_uuid=gpu.uuid,
                gpu_index=gpu.index,
                minor=gpu.minor,
                pci_bus_id=gpu.pci_bus_id,
                numa_node=gpu.numa_node,
                memory_total=found.memory,
                memory_reserved=0,
                gpu_instance=found.gpu_instance,
            )
            yield name, ServedDevice(device, units=held[name][uuid])


def _hardware(device: Device) -> Hardware:
    return Hardware(device.gpu_uuid, device.gpu_instance, device.memory_total, unit_memory=0)


def _in_order(devices: Sequence[ServedDevice]) -> tuple[ServedDevice, ...]:
    def position(served: ServedDevice) -> tuple[int, int, int]:
        device = served.device
        return device.gpu_index, device.gpu_instance or 0, device.compute_instance or 0

    return tuple(sorted(devices, key=position))


def _unit(id_: str) -> tuple[str, int]:
    """Device and number; plugins that offer whole devices have the UUID alone as an id."""
    uuid, separator, number = id_.rpartition(units.SEPARATOR)
    if separator and number.isascii() and number.isdigit():
        return uuid, int(number)
    return id_, 0
