# SPDX-License-Identifier: Apache-2.0
"""Machine → flat list of devices that can be selected. Pure; knows no rule.

A GPU in MIG mode is no device itself: CUDA can use its slices only.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from gpu_plugin.devices import Gpu, Machine, MigSlice


class DeviceKind(enum.Enum):
    """A whole GPU or one slice of it."""

    GPU = "gpu"
    MIG = "mig"


@dataclass(frozen=True, slots=True)
class Device:
    """What a rule selects. Only facts that stay the same while it exists, so that equal means
    unchanged.

    `gpu_uuid` and `gpu_index` are those of the physical GPU. `memory_total` includes
    `memory_reserved`, which the driver keeps. The instances are None for a whole GPU.
    """

    uuid: str
    kind: DeviceKind
    model: str
    gpu_uuid: str
    gpu_index: int
    minor: int
    pci_bus_id: str
    numa_node: int | None
    memory_total: int
    memory_reserved: int
    profile: str | None = None
    gpu_instance: int | None = None
    compute_instance: int | None = None

    @property
    def name(self) -> str:
        """For people: `GPU 0`, `GPU 2 1g.10gb gi9`."""
        return device_name(self.gpu_index, self.profile, self.gpu_instance)

    @property
    def title(self) -> str:
        """For people: `MIG-… (1g.10gb of NVIDIA A100-SXM4-80GB)`."""
        what = self.model if self.profile is None else f"{self.profile} of {self.model}"
        return f"{self.uuid} ({what})"


def device_name(gpu_index: int, profile: str | None, gpu_instance: int | None) -> str:
    """Short, as people call a device of one node. `profile` None: a whole GPU."""
    return f"GPU {gpu_index}" if profile is None else f"GPU {gpu_index} {profile} gi{gpu_instance}"


def devices_of(machine: Machine) -> tuple[Device, ...]:
    """All devices in the order of the machine: by GPU index, then GPU instance, compute
    instance.
    """
    found: list[Device] = []
    for gpu in sorted(machine.gpus, key=lambda gpu: gpu.index):
        if gpu.mig_enabled:
            ordered = sorted(gpu.slices, key=lambda s: (s.gpu_instance, s.compute_instance))
            found += [_of_slice(gpu, mig_slice) for mig_slice in ordered]
        else:
            found.append(_of_gpu(gpu))
    return tuple(found)


def without_devices(machine: Machine) -> tuple[Gpu, ...]:
    """GPUs in MIG mode that have no slice: nothing of them can be used."""
    return tuple(gpu for gpu in machine.gpus if gpu.mig_enabled and not gpu.slices)


def _of_gpu(gpu: Gpu) -> Device:
    return Device(
        uuid=gpu.uuid,
        kind=DeviceKind.GPU,
        model=gpu.model,
        gpu_uuid=gpu.uuid,
        gpu_index=gpu.index,
        minor=gpu.minor,
        pci_bus_id=gpu.pci_bus_id,
        numa_node=gpu.numa_node,
        memory_total=gpu.memory.total,
        memory_reserved=gpu.memory.reserved,
    )


def _of_slice(gpu: Gpu, mig_slice: MigSlice) -> Device:
    return Device(
        uuid=mig_slice.uuid,
        kind=DeviceKind.MIG,
        model=gpu.model,
        gpu_uuid=gpu.uuid,
        gpu_index=gpu.index,
        minor=gpu.minor,
        pci_bus_id=gpu.pci_bus_id,
        numa_node=gpu.numa_node,
        memory_total=mig_slice.memory.total,
        memory_reserved=mig_slice.memory.reserved,
        profile=mig_slice.profile,
        gpu_instance=mig_slice.gpu_instance,
        compute_instance=mig_slice.compute_instance,
    )
