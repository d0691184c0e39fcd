# SPDX-License-Identifier: Apache-2.0
"""GPUs, MIG slices and what runs on them, as values in our own words. Knows no NVML and no kubelet.

Memory is in bytes. A value NVML could not tell is None, never 0.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field, replace


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
    no MIG (V100). `demand` is what the driver says must be done before new work may start on it
    (None: nothing, or it does not tell).
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
    demand: str | None = None


@dataclass(frozen=True, slots=True)
class LostGpu:
    """A GPU that does not answer (fully), or that NVML lists no more. `uuid` None: it never told;
    `index` is the one that it had last. `hangs`: a question about it has not come back.
    """

    index: int
    uuid: str | None
    reason: str
    pci_bus_id: str | None = None
    hangs: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """All GPUs of this node at one moment; a lost one isolates only itself.

    `session` grows whenever the driver was opened anew: what was lost before may be found after.
    """

    driver_version: str
    gpus: tuple[Gpu, ...]
    lost: tuple[LostGpu, ...] = ()
    simulated: bool = False
    session: int = field(default=0, compare=False)

    def name_of(self, event: XidEvent) -> str:
        """The UUID of the slice that the event is bound to, else of the GPU."""
        place = (event.uuid, event.gpu_instance, event.compute_instance)
        for gpu in self.gpus:
            for each in gpu.slices:
                if (gpu.uuid, each.gpu_instance, each.compute_instance) == place:
                    return each.uuid
        return event.uuid


@dataclass(frozen=True, slots=True)
class Outline:
    """What the driver tells of the machine before it is asked for any GPU; `gpus` is their
    number.
    """

    driver_version: str
    gpus: int
    session: int
    simulated: bool = False

    def machine(self, answers: Iterable[Gpu | LostGpu]) -> Machine:
        """The whole, from the answer for each index."""
        found = tuple(answers)
        gpus = tuple(each for each in found if isinstance(each, Gpu))
        answered = {gpu.uuid for gpu in gpus}
        lost = tuple(
            # Indices shift when a GPU vanishes, so a remembered UUID may have answered elsewhere.
            each if each.uuid not in answered else replace(each, uuid=None)
            for each in found
            if isinstance(each, LostGpu)
        )
        return Machine(self.driver_version, gpus, lost, self.simulated, self.session)


class ProcessKind(enum.Enum):
    """Which of NVML's process lists a process was in."""

    COMPUTE = "compute"
    GRAPHICS = "graphics"
    MPS = "mps"


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that holds memory on a device. `pid` as the host numbers it; `used` None: not
    available. `utilisation` is its part of the device's time lately, 0 to 1 (None: not told).
    """

    pid: int
    used: int | None
    kind: ProcessKind
    gpu_instance: int | None = None
    compute_instance: int | None = None
    utilisation: float | None = None


@dataclass(frozen=True, slots=True)
class Utilisation:
    """Share of the last sample period in which the device was busy, 0 to 1; None: not available
    (MIG).
    """

    gpu: float | None
    memory: float | None


@dataclass(frozen=True, slots=True)
class XidEvent:
    """A critical error that the driver reported; instances None: it concerns the whole GPU.
    `session` is the one in which it was heard: a look at the machine in it, or in an earlier one,
    tells nothing of what became of the error.
    """

    uuid: str
    xid: int
    gpu_instance: int | None = None
    compute_instance: int | None = None
    session: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """Driver limits of one cgroup on one device, in bytes (NVML r615, cgroup v2).

    `soft` is what the cgroup is guaranteed (None: nothing), `hard` what it may reach (None: no
    limit), `used` what it holds now.
    """

    soft: int | None
    hard: int | None
    used: int | None = None
