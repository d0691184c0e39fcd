# SPDX-License-Identifier: Apache-2.0
"""What the Allocate answers of a container's resources amount to together. Pure.

For one environment key, container path or device path the first answer counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from agents._pb.deviceplugin import v1beta1_pb2
from agents.standin.kubelet.allocations import Allocation
from agents.standin.pods import DeviceNode, Volume


@dataclass(slots=True)
class ContainerEdits:
    """What to add to a container. `ignored` says what did not count, as (resource, text)."""

    env: dict[str, str] = field(default_factory=dict)
    volumes: dict[str, Volume] = field(default_factory=dict)
    devices: dict[str, DeviceNode] = field(default_factory=dict)
    ignored: list[tuple[str, str]] = field(default_factory=list)


def merged(allocations: Iterable[Allocation]) -> ContainerEdits:
    """All answers of one container as one."""
    edits = ContainerEdits()
    for allocation in allocations:
        answer = v1beta1_pb2.ContainerAllocateResponse.FromString(allocation.answer)
        _add(edits, allocation.resource, answer)
    return edits


def _add(
    edits: ContainerEdits, resource: str, answer: v1beta1_pb2.ContainerAllocateResponse
) -> None:
    for key, value in answer.envs.items():
        if edits.env.setdefault(key, value) != value:
            edits.ignored.append((resource, f"environment {key!r}: another resource set it first"))
    for mount in answer.mounts:
        volume = Volume(Path(mount.host_path), mount.container_path, read_only=mount.read_only)
        if edits.volumes.setdefault(mount.container_path, volume) != volume:
            text = f"mount at {mount.container_path!r}: another resource mounts there"
            edits.ignored.append((resource, text))
    for device in answer.devices:
        node = DeviceNode(Path(device.host_path), device.container_path, device.permissions)
        if edits.devices.setdefault(device.container_path, node) != node:
            text = f"device {device.container_path!r}: another resource brought it first"
            edits.ignored.append((resource, text))
    if answer.cdi_devices:
        # As containerd 1.6 does, without a word.
        edits.ignored.append((resource, "CDI devices: this runtime does not know them"))
