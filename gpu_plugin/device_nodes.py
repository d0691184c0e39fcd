# SPDX-License-Identifier: Apache-2.0
"""Which device nodes of the host a device needs: those that exist. Knows no NVML and no pod.

A node that is named but missing would keep the container from starting for ever; nodes that come
later (nvidia-uvm is made on first use) are seen by the next look.
"""

from __future__ import annotations

from pathlib import Path

from agents.hostfs import HostFs
from gpu_plugin.inventory import Device

_CONTROL = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")


def nodes_of(device: Device, host: HostFs) -> tuple[str, ...]:
    """Relative to the host's `/dev`: the GPU, the control nodes, and a slice's capabilities."""
    wanted = [f"nvidia{device.minor}", *_CONTROL, *_capabilities(device, host)]
    return tuple(name for name in wanted if (host.dev / name).exists())


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
