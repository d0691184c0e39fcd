# SPDX-License-Identifier: Apache-2.0
"""GPUs, MIG slices and what runs on them, as values in our own words. Knows no NVML and no kubelet.

Memory is in bytes. A value NVML could not tell is None, never 0.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Memory:
    """Device memory in bytes (NVML's v2 info: `total` includes `reserved`, the driver's part)."""

    total: int
    reserved: int
    used: int
    free: int


@dataclass(frozen=True, slots=True)
class MigSlice:
    """One MIG device: a compute instance that spans its GPU instance. `profile` is such as
    `3g.40gb`.
    """

    uuid: str
    parent_uuid: str
    profile: str
    gpu_instance: int
    compute_instance: int
    memory: Memory


@dataclass(frozen=True, slots=True)
class Gpu:
    """One physical GPU. `minor` names `/dev/nvidia<minor>`; `numa_node` None: unknown or no NUMA.

    `pci_bus_id` is written as the kernel does (`0000:3b:00.0`). `mig_enabled` None: the GPU knows
    no MIG (V100).
    """

    uuid: str
    index: int
    minor: int
    model: str
    pci_bus_id: str
    numa_node: int | None
    memory: Memory
    mig_enabled: bool | None
    slices: tuple[MigSlice, ...] = ()


@dataclass(frozen=True, slots=True)
class LostGpu:
    """A GPU that NVML lists but that does not answer (fully). `uuid` None: it never told."""

    index: int
    uuid: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Machine:
    """All GPUs of this node at one moment; a lost one isolates only itself."""

    driver_version: str
    gpus: tuple[Gpu, ...]
    lost: tuple[LostGpu, ...] = ()
    simulated: bool = False


class ProcessKind(enum.Enum):
    """Which of NVML's process lists a process was in."""

    COMPUTE = "compute"
    GRAPHICS = "graphics"
    MPS = "mps"


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that holds memory on a device. `pid` as the host numbers it; `used` None: not
    available.
    """

    pid: int
    used: int | None
    kind: ProcessKind
    gpu_instance: int | None = None
    compute_instance: int | None = None


@dataclass(frozen=True, slots=True)
class Utilisation:
    """Share of the last sample period in which the device was busy, 0 to 1; None: not available
    (MIG).
    """

    gpu: float | None
    memory: float | None


@dataclass(frozen=True, slots=True)
class XidEvent:
    """A critical error that the driver reported; instances None: it concerns the whole GPU."""

    uuid: str
    xid: int
    gpu_instance: int | None = None
    compute_instance: int | None = None


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """Driver limits of one cgroup on one device, in bytes (NVML r615, cgroup v2).

    `soft` is what the cgroup is guaranteed (None: nothing), `hard` what it may reach (None: no
    limit), `used` what it holds now.
    """

    soft: int | None
    hard: int | None
    used: int | None = None
