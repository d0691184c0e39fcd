# SPDX-License-Identifier: Apache-2.0
"""What a container gets with its units: environment, device nodes, mounts and CDI names, as values.
Pure; knows no gRPC.

The kubelet keeps this answer for the life of the pod and never asks again, so nothing in it may
become untrue later: no address, no token, no limit that can change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents import hostfs
from gpu_plugin.allocation import Share, file_name
from gpu_plugin.container_config import ContainerConfig, DeviceList
from gpu_plugin.container_environment import environment


@dataclass(frozen=True, slots=True)
class Mount:
    """A path of the host in the container."""

    host_path: Path
    container_path: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A device node, the same path outside and inside."""

    path: str
    permissions: str = "rw"


@dataclass(frozen=True, slots=True)
class ContainerEdits:
    """The answer to one Allocate, without a word of gRPC. `cdi_devices` are qualified names."""

    env: Mapping[str, str]
    mounts: tuple[Mount, ...]
    devices: tuple[DeviceNode, ...]
    cdi_devices: tuple[str, ...] = ()


def edits(
    share: Share,
    nodes: Sequence[str],
    directory: Path,
    config: ContainerConfig,
    *,
    limits_memory: bool,
) -> ContainerEdits:
    """`nodes` are relative to `/dev`; `directory` is the one that was made for this container;
    `limits_memory`: this node's driver can limit the memory of a cgroup.
    """
    wanted = nodes if config.device_nodes else ()
    return ContainerEdits(
        env=environment(share, config, limits_memory=limits_memory),
        mounts=(
            *_identity(share, directory),
            *_device_list(share, config.device_list),
            *(Mount(m.host_path, m.container_path, m.read_only) for m in config.mounts),
        ),
        devices=tuple(DeviceNode(str(hostfs.DEV / node)) for node in wanted),
        cdi_devices=_cdi_names(share, config),
    )


def _identity(share: Share, directory: Path) -> tuple[Mount, ...]:
    """The directory under the name of its resource, and where people look. Of two resources in one
    container the kubelet keeps the first mount of a path, so the second place belongs to whichever
    came first.
    """
    return (
        Mount(directory, f"{hostfs.CONTAINER_ALLOCATIONS_DIR}/{file_name(share.resource)}"),
        Mount(directory, hostfs.CONTAINER_GPU_DIR),
    )


def _device_list(share: Share, told: DeviceList) -> tuple[Mount, ...]:
    """One mount a device, whose last component names it: those of several resources add up."""
    if told is not DeviceList.MOUNTS:
        return ()
    return tuple(
        Mount(hostfs.DEV / "null", f"{hostfs.CONTAINER_DEVICE_LIST_DIR}/{device.uuid}")
        for device in share.devices
    )


def _cdi_names(share: Share, config: ContainerConfig) -> tuple[str, ...]:
    """By UUID, as a specification by `nvidia-ctk cdi generate` names them. A simulated device is
    in none, and a name that is not known keeps the container from starting.
    """
    if config.device_list is not DeviceList.CDI or share.simulated:
        return ()
    return tuple(f"{config.cdi_kind}={device.uuid}" for device in share.devices)
