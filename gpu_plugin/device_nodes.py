# SPDX-License-Identifier: Apache-2.0
"""Which device nodes of the host a device needs: those that exist. Knows no NVML and no pod.

A node that is named but missing would keep the container from starting for ever; nodes that come
later (nvidia-uvm is made on first use) are seen by the next look.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from agents.hostfs import HostFs
from gpu_plugin.inventory import Device

#: Without these no CUDA program starts; the others are for tools and displays.
_CONTROL = ("nvidiactl", "nvidia-uvm")
_OPTIONAL = ("nvidia-uvm-tools", "nvidia-modeset")


def nodes_of(device: Device, host: HostFs) -> tuple[str, ...]:
    """Relative to the host's `/dev`: the GPU, the control nodes, and a slice's capabilities."""
    wanted = [*_needed(device, host), *_OPTIONAL]
    return tuple(name for name in wanted if (host.dev / name).exists())


def missing(devices: Iterable[Device], host: HostFs) -> str | None:
    """A sentence about needed nodes that are not there; None: all are. What a container was not
    given at its admission it never gets, so they should be there before the first pod.
    """
    needed = dict.fromkeys(node for device in devices for node in _needed(device, host))
    absent = [name for name in needed if not (host.dev / name).exists()]
    if not absent:
        return None
    return (
        f"device nodes are missing in {str(host.dev)!r}: {', '.join(absent)}; containers start "
        "without them. Make them at boot: nvidia-modprobe -u -c 0, for nvidia-caps nvidia-modprobe "
        "-f with each access file"
    )


def _needed(device: Device, host: HostFs) -> list[str]:
    return [f"nvidia{device.minor}", *_CONTROL, *_capabilities(device, host)]


def _capabilities(device: Device, host: HostFs) -> list[str]:
    """A slice is opened through two capability nodes: of its GPU instance and its compute
    instance.
    """
    if device.gpu_instance is None:
        return []
    gpu_instance = host.gpu_capabilities(device.minor) / "mig" / f"gi{device.gpu_instance}"
    accesses = [gpu_instance / "access"]
    if device.compute_instance is not None:
        accesses.append(gpu_instance / f"ci{device.compute_instance}" / "access")
    minors = [_minor(access) for access in accesses]
    return [f"nvidia-caps/nvidia-cap{minor}" for minor in minors if minor is not None]


def _minor(access: Path) -> int | None:
    """The number in the line `DeviceFileMinor: 21`."""
    try:
        text = access.read_text()
    except OSError:
        return None  # no MIG on this GPU, or a driver without capability files
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "DeviceFileMinor" and value.strip().isdigit():
            return int(value)
    return None
