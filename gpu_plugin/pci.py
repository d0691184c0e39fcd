# SPDX-License-Identifier: Apache-2.0
"""Which NVIDIA GPUs the kernel sees on the PCI bus, driver or not. Knows no NVML.

Tells a node without a GPU from one whose driver is missing, and finds a GPU that the driver does
not list.
"""

from __future__ import annotations

from pathlib import Path

from agents.hostfs import HostFs

_NVIDIA = "0x10de"
#: Display controllers: VGA (0x0300), 3D (0x0302) and others of that base class.
_DISPLAY = "0x03"
#: Bound to one of these, a GPU belongs to a virtual machine.
_PASSED_THROUGH = {"vfio-pci", "pci-stub", "nvgrace_gpu_vfio_pci", "nvgrace-gpu-vfio-pci"}


def gpus_on_bus(host: HostFs) -> tuple[str, ...] | None:
    """Addresses such as `0000:3b:00.0`, sorted. None: the kernel's device tree is not in view.

    GPUs that are passed to virtual machines, and the virtual functions of a shared one, are not
    ours.
    """
    try:
        found = sorted(host.pci_devices.iterdir())
    except OSError:
        # A machine without PCI has no such directory, but a bus of some kind it has.
        return () if host.pci_devices.parent.parent.is_dir() else None
    return tuple(device.name for device in found if _is_gpu(device))


def _is_gpu(device: Path) -> bool:
    return (
        _text(device / "vendor") == _NVIDIA
        and _text(device / "class").startswith(_DISPLAY)
        and not (device / "physfn").exists()
        and (device / "driver").resolve().name not in _PASSED_THROUGH
    )


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
