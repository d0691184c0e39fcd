# SPDX-License-Identifier: Apache-2.0
"""What views are rendered from: values read from the host and from one container's cgroup. Pure
values; knows neither files nor views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agents.cgroup_formats import CpuTimes, Headroom, HugePages
from agents.cgroup_io_formats import IoCounts
from lxcfs_helper.container_limits import Limits


@dataclass(frozen=True, slots=True)
class HostCpus:
    """What /sys tells of the host's CPUs that is alike for all of them, as texts without a newline.

    `topology` are the names in a CPU's directory of that name, `caches` the attributes of its
    caches by index, `constants` files of the CPU directory that tell of kernel and processor type,
    by their path below it.
    """

    topology: frozenset[str] = frozenset()
    caches: tuple[Mapping[str, str], ...] = ()
    constants: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HostFacts:
    """`meminfo` in the file's order and units (kB, a few are counts); `cpuinfo` is the file's text;
    `boot_time` in seconds of the epoch. `disks` are names by device number; `offers` the files and
    directories, of those that can be shown, that this kernel has. `texts` are its files in /proc by
    their path below it, read only to be told beside a container's."""

    meminfo: Mapping[str, int]
    cpuinfo: str
    cpus: frozenset[int]
    boot_time: int
    ticks_per_second: int = 100
    sys_cpus: HostCpus = HostCpus()
    disks: Mapping[tuple[int, int], str] = field(default_factory=dict)
    offers: frozenset[Path] = frozenset()
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def memory_bytes(self) -> int:
        return self.meminfo["MemTotal"] * 1024

    def memory_for(self, limits: Limits) -> tuple[int, ...]:
        """What of the host's memory is in what a container with these limits is shown: there may
        be less left than it may have."""
        get, limit = self.meminfo.get, limits.memory
        available = get("MemAvailable", 0)
        if limit is not None:
            available = min(available, limit.value >> 10)
        return available, get("SwapTotal", 0), get("HugePages_Total", 0), get("HugePages_Free", 0)

    @property
    def static(self) -> tuple[object, ...]:
        """Differs when CPUs came or went: what is rendered from limits alone is then rendered
        again."""
        return self.cpus, self.cpuinfo, self.sys_cpus, self.offers


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """In bytes; `stat` under v2's names, absent what is unknown. None: unknown (`swap_used`,
    `swappiness`, `huge_pages`) or unlimited (`headroom`)."""

    used: int
    stat: Mapping[str, int] = field(default_factory=dict)
    headroom: Headroom | None = None
    swap_used: int | None = None
    swappiness: int | None = None
    huge_pages: HugePages | None = None


@dataclass(frozen=True, slots=True)
class CpuShare:
    """Seconds of a CPU, or of all together. They only ever grow."""

    user_s: float = 0.0
    system_s: float = 0.0
    idle_s: float = 0.0
    steal_s: float = 0.0

    def plus(self, other: CpuShare, part: float = 1.0) -> CpuShare:
        return CpuShare(
            self.user_s + other.user_s * part,
            self.system_s + other.system_s * part,
            self.idle_s + other.idle_s * part,
            self.steal_s + other.steal_s * part,
        )


@dataclass(frozen=True, slots=True)
class CpuAccount:
    """What `stat` has shown so far, and the readings it was worked out from.

    `at` is when, in seconds since boot. `lines` never loses one: a CPU that goes and comes back
    continues where it was.
    """

    at: float
    times: CpuTimes
    total: CpuShare = CpuShare()
    lines: tuple[CpuShare, ...] = ()


@dataclass(frozen=True, slots=True)
class LoadAccount:
    """Averages of how many threads ran or waited for a disk, over 1, 5 and 15 minutes, as of `at`
    (seconds since boot); and how many it were then, of how many."""

    at: float = 0.0
    averages: tuple[float, float, float] = (0.0, 0.0, 0.0)
    running: int = 0
    threads: int = 0


@dataclass(frozen=True, slots=True)
class NativeFile:
    """A file of the kernel's that is of this container alone: where it is here, and the device and
    the root by which a mount table names it."""

    path: Path
    device: tuple[int, int]
    root: str


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """One container at one moment. What was not asked for has its default, and is not to be shown.

    `io` by device number; None: nothing counts it. `age_s` is for how long it has been running.
    `pressure` are the container's own cgroup2 files by name (cpu, memory, io).
    """

    limits: Limits
    memory: MemoryFacts = MemoryFacts(0)
    account: CpuAccount = CpuAccount(0.0, CpuTimes(0.0, 0.0, 0.0))
    io: Mapping[tuple[int, int], IoCounts] | None = None
    load: LoadAccount = LoadAccount()
    age_s: float = 0.0
    pressure: Mapping[str, NativeFile] = field(default_factory=dict)
