# SPDX-License-Identifier: Apache-2.0
"""Shares: the units of one resource in one container, and what it may know of them. Pure.

What else a container gets with them is in `container_edits`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpu_plugin.resources import Resource, ServedDevice, size_text


@dataclass(frozen=True, slots=True)
class Hardware:
    """Where on the hardware a device is, and in what units it was given: what must be known of it
    when it is gone, or cut otherwise, and pods still hold units of it. Memory is in bytes;
    `gpu_instance` None: the whole GPU.
    """

    gpu_uuid: str
    gpu_instance: int | None
    memory: int
    unit_memory: int


@dataclass(frozen=True, slots=True)
class SharedDevice:
    """The part of one device that a container holds. `memory` is what its units stand for, in
    bytes; `usable` is what programs see as the memory of the whole device (None: unknown).
    """

    uuid: str
    model: str
    profile: str | None
    numbers: tuple[int, ...]
    memory: int
    usable: int | None = None
    hardware: Hardware | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """All units of one resource in one container. `exclusive`: a unit is a whole device."""

    resource: str
    devices: tuple[SharedDevice, ...]
    simulated: bool
    exclusive: bool = False

    @property
    def units(self) -> int:
        return sum(len(device.numbers) for device in self.devices)

    @property
    def memory(self) -> int:
        return sum(device.memory for device in self.devices)


def share_of(resource: Resource, given: Mapping[ServedDevice, Sequence[int]]) -> Share:
    """What `placement.check` let pass, as a share."""
    devices = tuple(
        SharedDevice(
            uuid=served.device.uuid,
            model=served.device.model,
            profile=served.device.profile,
            numbers=tuple(numbers),
            memory=resource.unit_memory(served) * len(numbers),
            usable=served.device.memory_total - served.device.memory_reserved,
            hardware=Hardware(
                gpu_uuid=served.device.gpu_uuid,
                gpu_instance=served.device.gpu_instance,
                memory=served.device.memory_total,
                unit_memory=resource.unit_memory(served),
            ),
        )
        for served, numbers in given.items()
    )
    return Share(resource.name, devices, resource.simulated, exclusive=resource.chunk is None)


def file_name(resource: str) -> str:
    """A resource name in one path component; the first `_` stands for the `/` (domains have
    none).
    """
    return resource.replace("/", "_")


def share_document(share: Share) -> dict[str, object]:
    """What the container may know of its share, as `share.json`."""
    return {
        "resource": share.resource,
        "units": share.units,
        "memory_bytes": share.memory,
        "simulated": share.simulated,
        "devices": [
            {
                "uuid": device.uuid,
                "model": device.model,
                "profile": device.profile,
                "units": len(device.numbers),
                "memory_bytes": device.memory,
            }
            for device in share.devices
        ],
    }


def given_text(resource: str, count: int, memory: int) -> str:
    """What was given of a resource, in one line; `memory` in bytes."""
    return f"{resource}: {count} unit{'' if count == 1 else 's'}, {size_text(memory)} of GPU memory"


def share_text(share: Share) -> str:
    """The same for people, as `status`."""
    lines = [given_text(share.resource, share.units, share.memory)]
    lines += [
        f"  {size_text(device.memory)} on {device.profile or device.model} ({device.uuid})"
        for device in share.devices
    ]
    if share.simulated:
        lines.append("SIMULATED: this machine has no such GPU; nothing can be computed on it")
    lines.append("What is used of it was not measured yet.")
    return "\n".join(lines) + "\n"
