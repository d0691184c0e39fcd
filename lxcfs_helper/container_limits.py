# SPDX-License-Identifier: Apache-2.0
"""What a container may use: the tightest limit on the way from its cgroup to the root. Pure.

A limit keeps the path of the cgroup that sets it, so that it can be explained. Knows no file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from agents.cgroup_formats import CpuLevel, MemoryLevel

N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True)
class Limit(Generic[N]):
    """A limit and the cgroup that sets it."""

    value: N
    path: str


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one container; None: nobody on the way to the root sets one.

    Memory and swap in bytes (`swap` counts memory too where `swap_with_memory`: v1); `quota` in
    CPUs, perhaps fractional; `allowed` the CPUs it may run on (None: unknown).
    """

    memory: Limit[int] | None = None
    swap: Limit[int] | None = None
    swap_with_memory: bool = False
    quota: Limit[float] | None = None
    allowed: frozenset[int] | None = None

    def limits_memory(self, host_bytes: int) -> bool:
        """Whether there is less memory than the host has."""
        return self.memory is not None and self.memory.value < host_bytes

    def limits_cpu(self, host_cpus: frozenset[int]) -> bool:
        """Whether there is less CPU time than the host has."""
        return self.capacity(host_cpus) < len(host_cpus)

    def capacity(self, host_cpus: frozenset[int]) -> float:
        """CPU seconds that can be used in one second."""
        cpus = len(self.cpus(host_cpus))
        return float(cpus) if self.quota is None else min(self.quota.value, float(cpus))

    def cpu_count(self, host_cpus: frozenset[int]) -> int:
        """Whole CPUs to show: enough for the quota, and at least one."""
        return max(1, math.ceil(self.capacity(host_cpus)))

    def cpus(self, host_cpus: frozenset[int]) -> frozenset[int]:
        """The CPUs of the host it may run on."""
        return host_cpus if self.allowed is None else (self.allowed & host_cpus) or host_cpus


def limits(
    memory: Sequence[MemoryLevel],
    cpu: Sequence[CpuLevel],
    allowed: frozenset[int] | None,
    *,
    swap_with_memory: bool,
) -> Limits:
    """From the levels of a cgroup, its own first."""
    return Limits(
        memory=tightest((level.limit, level.path) for level in memory),
        swap=tightest((level.swap, level.path) for level in memory),
        swap_with_memory=swap_with_memory,
        quota=tightest((level.quota, level.path) for level in cpu),
        allowed=allowed,
    )


def tightest(levels: Iterable[tuple[N | None, str]]) -> Limit[N] | None:
    """The least that is set; of equal ones the first, which is the nearest."""
    best: Limit[N] | None = None
    for value, path in levels:
        if value is not None and (best is None or value < best.value):
            best = Limit(value, path)
    return best
