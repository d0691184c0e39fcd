# SPDX-License-Identifier: Apache-2.0
"""What views are rendered from: values read from the host and from one container's cgroup. Pure
values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agents.cgroup_formats import CpuTimes
from lxcfs_helper.container_limits import Limits


@dataclass(frozen=True, slots=True)
class HostFacts:
    """`meminfo` in the file's order and units (kB, a few are counts); `cpuinfo` is the file's text;
    `boot_time` in seconds of the epoch."""

    meminfo: Mapping[str, int]
    cpuinfo: str
    cpus: frozenset[int]
    boot_time: int
    ticks_per_second: int = 100

    @property
    def memory_bytes(self) -> int:
        return self.meminfo["MemTotal"] * 1024


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """In bytes; `stat` under v2's names, absent what is unknown. None: unknown (`swap_used`,
    `swappiness`) or unlimited (`headroom`)."""

    used: int
    stat: Mapping[str, int] = field(default_factory=dict)
    headroom: int | None = None
    swap_used: int | None = None
    swappiness: int | None = None


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
class ContainerFacts:
    """One container at one moment."""

    limits: Limits
    memory: MemoryFacts
    account: CpuAccount
