# SPDX-License-Identifier: Apache-2.0
"""/proc/meminfo of a container. Pure.

An allow-list: a field shows the container's value, zero where its cgroup has none to tell, or a
constant of the architecture. Every other field of the host is left out, so that no host value
leaks. The text keeps its length while the limits stay, so that it can be written in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple

from agents import cgroup_formats
from lxcfs_helper.facts import ContainerFacts, HostFacts, MemoryFacts

#: Constants of architecture and kernel configuration: the same on every host of its kind.
CONSTANT = frozenset({"VmallocTotal", "Hugepagesize"})

#: Known to programs, but counted by no cgroup.
_ZERO = (
    "Buffers",
    "Mlocked",
    "NFS_Unstable",
    "Bounce",
    "WritebackTmp",
    "CommitLimit",
    "Committed_AS",
    "VmallocUsed",
    "VmallocChunk",
    "HardwareCorrupted",
    "ShmemPmdMapped",
    "FilePmdMapped",
    "CmaTotal",
    "CmaFree",
    "HugePages_Rsvd",
    "HugePages_Surp",
)

#: The counts among the fields: they have no unit.
_COUNTS = frozenset({"HugePages_Total", "HugePages_Free", "HugePages_Rsvd", "HugePages_Surp"})

#: Fields that one or two entries of memory.stat add up to.
FROM_STAT: Mapping[str, tuple[str, ...]] = {
    "SwapCached": ("swapcached",),
    "Active": ("active_anon", "active_file"),
    "Inactive": ("inactive_anon", "inactive_file"),
    "Active(anon)": ("active_anon",),
    "Inactive(anon)": ("inactive_anon",),
    "Active(file)": ("active_file",),
    "Inactive(file)": ("inactive_file",),
    "Unevictable": ("unevictable",),
    "Zswap": ("zswap",),
    "Zswapped": ("zswapped",),
    "Dirty": ("file_dirty",),
    "Writeback": ("file_writeback",),
    "AnonPages": ("anon",),
    "Mapped": ("file_mapped",),
    "Shmem": ("shmem",),
    "Slab": ("slab_reclaimable", "slab_unreclaimable"),
    "SUnreclaim": ("slab_unreclaimable",),
    "KernelStack": ("kernel_stack",),
    "PageTables": ("pagetables",),
    "SecPageTables": ("sec_pagetables",),
    "Percpu": ("percpu",),
    "AnonHugePages": ("anon_thp",),
    "ShmemHugePages": ("shmem_thp",),
    "FileHugePages": ("file_thp",),
}

#: Worked out from limits and use, below, in this order.
_COMPUTED = (
    "MemTotal",
    "MemFree",
    "MemAvailable",
    "Cached",
    "SReclaimable",
    "KReclaimable",
    "SwapTotal",
    "SwapFree",
    "HugePages_Total",
    "HugePages_Free",
    "Hugetlb",
)

#: What a container's file may hold at all.
ALLOWED = CONSTANT | {*_ZERO, *FROM_STAT, *_COMPUTED}

_NAMES = (*_COMPUTED, *FROM_STAT)
_SWAP_TOTAL, _HUGETLB = _NAMES.index("SwapTotal"), _NAMES.index("Hugetlb")


class _Plan(NamedTuple):
    """How to write a file with the fields of one host: entries of memory.stat in the order of
    `FROM_STAT` (empty: no second one), the line pattern, and which values it takes."""

    template: str
    pick: Callable[[Sequence[int]], Sequence[int]]


def render(host: HostFacts, container: ContainerFacts) -> bytes:
    """The whole file."""
    values = _computed(host, container)
    most = values[0]
    get = container.memory.stat.get
    values += [
        (get(first, 0) + get(second, 0) if second else get(first, 0)) >> 10
        for first, second in _ENTRIES
    ]
    if max(values) > most:
        counted = len(_COMPUTED)
        values[counted:] = [min(most, value) for value in values[counted:]]
    largest = max(most, values[_SWAP_TOTAL], values[_HUGETLB])
    width = 8 if largest < 100_000_000 else len(str(largest))
    plan = _plans.of(host, width)
    return (plan.template % plan.pick(values)).encode()


def total_and_free(host: HostFacts, container: ContainerFacts) -> tuple[int, int]:
    """Total and free, in bytes."""
    total, limit = host.memory_bytes, container.limits.memory
    if limit is not None and limit.value < total:
        total = limit.value
    return total, total - min(total, container.memory.used)


def swap(host: HostFacts, container: ContainerFacts) -> tuple[int, int]:
    """Total and free, in bytes. v1 limits memory and swap together: all of it may be swapped."""
    memory, limit = container.memory, container.limits.swap
    if memory.swap_used is None:  # no accounting, so nothing is known
        return 0, 0
    total = host.meminfo.get("SwapTotal", 0) * 1024
    if limit is not None:
        total = min(total, limit.value)
    used = min(total, memory.swap_used)
    if memory.swappiness == 0:
        total = used
    return total, total - used


def huge_pages(host: HostFacts, container: ContainerFacts) -> tuple[int, int, int]:
    """How many it may have and has left, and the first in kB. They are the host's, as far as no
    limit says less; and no more is free than is free there."""
    size, counted = host.meminfo.get("Hugepagesize", 0), container.memory.huge_pages
    if counted is None or not size:
        return 0, 0, 0
    total = host.meminfo.get("HugePages_Total", 0)
    if counted.limit is not None:
        total = min(total, counted.limit // (size << 10))
    free = max(0, total - counted.used // (size << 10))
    return total, min(free, host.meminfo.get("HugePages_Free", 0)), total * size


def swap_is_unknown(host: HostFacts, container: ContainerFacts) -> bool:
    """Whether the host swaps, but does not account for it."""
    return bool(host.meminfo.get("SwapTotal")) and container.memory.swap_used is None


def _computed(host: HostFacts, container: ContainerFacts) -> list[int]:
    """In kB, in the order of `_COMPUTED`."""
    memory, of_host = container.memory, host.meminfo
    total, free = total_and_free(host, container)
    stat, used = memory.stat, total - free
    cached = min(used, stat.get("file", 0))
    reclaimable = min(used - cached, stat.get("slab_reclaimable", 0)) >> 10
    available = available_here(memory, total)
    if memory.headroom is not None and memory.headroom.value < available:
        available = memory.headroom.value
    available = max(0, min(available >> 10, of_host.get("MemAvailable", available >> 10)))
    swap_total, swap_free = swap(host, container) if of_host.get("SwapTotal") else (0, 0)
    return [
        total >> 10,
        free >> 10,
        available,
        cached >> 10,
        reclaimable,
        reclaimable,
        swap_total >> 10,
        swap_free >> 10,
        *(huge_pages(host, container) if memory.huge_pages is not None else (0, 0, 0)),
    ]


def available_here(memory: MemoryFacts, total: int) -> int:
    """What could be had without swapping below this limit, in bytes."""
    used = min(total, memory.used)
    return total - used + min(used, cgroup_formats.reclaimable(memory.stat))


_ENTRIES = tuple((names[0], (*names, "")[1]) for names in FROM_STAT.values())


@lru_cache(maxsize=64)
def _plan(fields: tuple[str, ...], constants: tuple[tuple[str, int], ...], width: int) -> _Plan:
    fixed = dict.fromkeys(_ZERO, 0) | dict(constants)
    lines, taken = [], []
    for name in fields:
        unit = "" if name in _COUNTS else " kB"
        if name in fixed:
            lines.append(f"{name + ':':<16}{fixed[name]:{width}d}{unit}\n")
        elif name in _NAMES:
            lines.append(f"{name + ':':<16}%{width}d{unit}\n")
            taken.append(_NAMES.index(name))
    return _Plan("".join(lines), itemgetter(*taken))


class _Plans:
    """Those for the host whose facts were used last: all containers of a sweep share them, and to
    look a plan up by the names of all fields would cost as much as reading what was used."""

    def __init__(self) -> None:
        self._host: HostFacts | None = None
        self._by_width: dict[int, _Plan] = {}

    def of(self, host: HostFacts, width: int) -> _Plan:
        if host is not self._host:
            self._host, self._by_width = host, {}
        found = self._by_width.get(width)
        if found is None:
            of_host = host.meminfo
            constants = tuple([(name, of_host[name]) for name in CONSTANT if name in of_host])
            found = self._by_width[width] = _plan(tuple(of_host), constants, width)
        return found


_plans = _Plans()
