# SPDX-License-Identifier: Apache-2.0
"""What a container gets with its units: environment, device nodes and mounts, as values. Pure.

The kubelet keeps this answer for the life of the pod and never asks again, so nothing in it may
become untrue later. Unit ids never go into the environment: Linux limits one variable to 128 KiB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents import hostfs
from gpu_plugin.resources import Resource, ServedDevice, size_text


@dataclass(frozen=True, slots=True)
class SharedDevice:
    """The part of one device that a container holds. `memory` is what its units stand for, in
    bytes.
    """

    uuid: str
    model: str
    profile: str | None
    numbers: tuple[int, ...]
    memory: int


@dataclass(frozen=True, slots=True)
class Share:
    """All units of one resource in one container."""

    resource: str
    devices: tuple[SharedDevice, ...]
    simulated: bool

    @property
    def units(self) -> int:
        return sum(len(device.numbers) for device in self.devices)

    @property
    def memory(self) -> int:
        return sum(device.memory for device in self.devices)


@dataclass(frozen=True, slots=True)
class Mount:
    """A host directory in the container, read-only."""

    host_path: Path
    container_path: str


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A device node, the same path outside and inside."""

    path: str
    permissions: str = "rw"


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one Allocate, without a word of gRPC."""

    env: Mapping[str, str]
    mounts: tuple[Mount, ...]
    devices: tuple[DeviceNode, ...]


def share_of(resource: Resource, given: Mapping[ServedDevice, Sequence[int]]) -> Share:
    """What `placement.check` let pass, as a share."""
    devices = tuple(
        SharedDevice(
            uuid=served.device.uuid,
            model=served.device.model,
            profile=served.device.profile,
            numbers=tuple(numbers),
            memory=resource.unit_memory(served) * len(numbers),
        )
        for served, numbers in given.items()
    )
    return Share(resource.name, devices, resource.simulated)


def answer(share: Share, nodes: Sequence[str], directory: Path) -> Answer:
    """`nodes` are relative to `/dev`; `directory` is the one that was made for this container.

    The directory is mounted twice: under the name of its resource, and where people look. Of two
    resources in one container the kubelet keeps the first mount (and variable) of a name, so the
    second place belongs to whichever came first.
    """
    return Answer(
        env={
            "NVIDIA_VISIBLE_DEVICES": ",".join(device.uuid for device in share.devices),
            "NODESHARE_GPU_UNITS": str(share.units),
            "NODESHARE_GPU_MEMORY_BYTES": str(share.memory),
        },
        mounts=(
            Mount(directory, f"{hostfs.CONTAINER_ALLOCATIONS_DIR}/{file_name(share.resource)}"),
            Mount(directory, hostfs.CONTAINER_GPU_DIR),
        ),
        devices=tuple(DeviceNode(str(hostfs.DEV / node)) for node in nodes),
    )


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


def share_text(share: Share) -> str:
    """The same for people, as `status`."""
    lines = [f"{share.resource}: {share.units} units, {size_text(share.memory)} of GPU memory"]
    lines += [
        f"  {size_text(device.memory)} on {device.profile or device.model} ({device.uuid})"
        for device in share.devices
    ]
    if share.simulated:
        lines.append("SIMULATED: this machine has no such GPU; nothing can be computed on it")
    return "\n".join(lines) + "\n"
