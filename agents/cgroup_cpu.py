# SPDX-License-Identifier: Apache-2.0
"""CPU time and CPUs of a cgroup, as v1 and as v2 keep them. Knows nothing of processes or of which
cgroup is whose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agents import cgroup_formats as formats
from agents.cgroup_formats import CpuLevel, CpuTimes
from agents.cgroup_tree import Directory, texts


class CpuV2:
    """cpu.* and cpuset.* of the unified hierarchy. `chain`: own directory first, root last."""

    def __init__(self, chain: Sequence[Directory]) -> None:
        self._chain = chain

    def levels(self) -> tuple[CpuLevel, ...]:
        return tuple(CpuLevel(level.path, level.once(_quota_v2)) for level in self._chain[:-1])

    def allowed(self) -> frozenset[int] | None:
        # Where the controller is not enabled, the nearest ancestor that has the file decides.
        texts = (level.read("cpuset.cpus.effective") for level in self._chain)
        found = next((text for text in texts if text is not None), None)
        return None if found is None else formats.parse_cpu_list(found)

    def limits_activity(self) -> object:
        cpus = [level.once(_allowed_v2) for level in self._chain[:1]]
        return tuple(level.once(_quota_texts_v2) for level in self._chain[:-1]), cpus

    def activity(self) -> bytes | None:
        return self._chain[0].once(_cpu_stat)

    def activity_above(self) -> bytes | None:
        return self._chain[-2].once(_cpu_stat) if len(self._chain) > 2 else None

    def times(self) -> CpuTimes | None:
        stat = self._chain[0].once(_cpu_stat)
        if stat is None or b"usage_usec" not in stat:
            return None
        return formats.cpu_times_v2(stat, _throttling(self._chain[:-1], _quota_v2))


class CpuV1:
    """cpu.*, cpuacct.* and cpuset.* of v1, each with a chain of its own: own directory first."""

    def __init__(
        self, cpu: Sequence[Directory], cpuacct: Sequence[Directory], cpuset: Sequence[Directory]
    ) -> None:
        self._cpu = cpu
        self._cpuacct = cpuacct
        self._cpuset = cpuset

    def levels(self) -> tuple[CpuLevel, ...]:
        return tuple(CpuLevel(level.path, level.once(_quota_v1)) for level in self._cpu[:-1])

    def allowed(self) -> frozenset[int] | None:
        text = self._cpuset[0].read("cpuset.effective_cpus") if self._cpuset else None
        return None if text is None else formats.parse_cpu_list(text)

    def limits_activity(self) -> object:
        cpus = [level.once(_allowed_v1) for level in self._cpuset[:1]]
        return tuple(level.once(_quota_texts_v1) for level in self._cpu[:-1]), cpus

    def activity(self) -> bytes | None:
        return self._cpuacct[0].once(_cpu_usage) if self._cpuacct else None

    def activity_above(self) -> bytes | None:
        return self._cpuacct[-2].once(_cpu_usage) if len(self._cpuacct) > 2 else None

    def times(self) -> CpuTimes | None:
        usage = self._cpuacct[0].raw("cpuacct.usage_all") if self._cpuacct else None
        if usage is None:
            return None
        return formats.cpu_times_v1(usage, _throttling(self._cpu[:-1], _quota_v1))


_quota_texts_v2, _quota_texts_v1 = (
    texts("cpu.max"),
    texts("cpu.cfs_quota_us", "cpu.cfs_period_us"),
)
_allowed_v2, _allowed_v1 = texts("cpuset.cpus.effective"), texts("cpuset.effective_cpus")


def _cpu_stat(level: Directory) -> bytes | None:
    return level.raw("cpu.stat")


def _cpu_usage(level: Directory) -> bytes | None:
    return level.raw("cpuacct.usage")


def _quota_v2(level: Directory) -> float | None:
    text = level.read("cpu.max")
    return None if text is None else formats.parse_cpu_max(text)


def _quota_v1(level: Directory) -> float | None:
    quota, period = level.read("cpu.cfs_quota_us"), level.read("cpu.cfs_period_us")
    return None if quota is None or period is None else formats.cpu_quota_v1(quota, period)


def _throttling(chain: Sequence[Directory], quota: Callable[[Directory], float | None]) -> bytes:
    """cpu.stat of the nearest cgroup with a quota; empty: nobody has one."""
    limiting = next((level for level in chain if level.last(quota) is not None), None)
    return b"" if limiting is None else limiting.once(_cpu_stat) or b""
