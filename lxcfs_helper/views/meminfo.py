# SPDX-License-Identifier: Apache-2.0
"""/proc/meminfo of a container. Pure.

An allow-list: a field shows the container's value, zero where its cgroup has none to tell, or a
constant of the architecture. Every other field of the host is left out, so that no host value
leaks. The text keeps its length while the limits stay, so that it can be written in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

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
    "HugePages_Total",
    "HugePages_Free",
    "HugePages_Rsvd",
    "HugePages_Surp",
    "Hugetlb",
)

#: The counts among the fields: they have no unit.
_COUNTS = frozenset({"HugePages_Total", "HugePages_Free", "HugePages_Rsvd", "HugePages_Surp"})

#: Fields that one or two entries of memory.stat add up to.
_FROM_STAT: Mapping[str, tuple[str, ...]] = {
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

#: The same, quick to go through; no entry has an empty name.
_PAIRS = tuple((name, entries[0], (*entries, "")[1]) for name, entries in _FROM_STAT.items())

#: Worked out from limits and use, below.
_COMPUTED = (
    "MemTotal",
    "MemFree",
    "MemAvailable",
    "Cached",
    "SwapTotal",
    "SwapFree",
    "SReclaimable",
    "KReclaimable",
)

#: What a container's file may hold at all.
ALLOWED = CONSTANT | {*_ZERO, *_FROM_STAT, *_COMPUTED}


def render(host: HostFacts, container: ContainerFacts) -> bytes:
    """The whole file."""
    values = _computed(host, container)
    stat, most = container.memory.stat, values["MemTotal"]
    for name, first, second in _PAIRS:
        value = stat.get(first, 0) + stat.get(second, 0)
        values[name] = min(most, value // 1024)
    values |= {name: host.meminfo[name] for name in CONSTANT if name in host.meminfo}
    fields = _fields(tuple(host.meminfo))
    width = max(8, len(str(max(most, values["SwapTotal"]))))
    shown = tuple([values.get(name, 0) for name in fields])
    return (_template(fields, width) % shown).encode()


def _computed(host: HostFacts, container: ContainerFacts) -> dict[str, int]:
    """In kB."""
    memory, limit = container.memory, container.limits.memory
    total = host.memory_bytes if limit is None else min(host.memory_bytes, limit.value)
    used = min(total, memory.used)
    cached = min(used, memory.stat.get("file", 0))
    reclaimable = min(used - cached, memory.stat.get("slab_reclaimable", 0))
    swap_total, swap_free = _swap(host, container)
    bytes_ = {
        "MemTotal": total,
        "MemFree": total - used,
        "MemAvailable": _available(host, memory, total, used),
        "Cached": cached,
        "SReclaimable": reclaimable,
        "KReclaimable": reclaimable,
        "SwapTotal": swap_total,
        "SwapFree": swap_free,
    }
    return {name: value // 1024 for name, value in bytes_.items()}


def _available(host: HostFacts, memory: MemoryFacts, total: int, used: int) -> int:
    """What can be had without swapping: here, below every ancestor's limit, on the host."""
    here = total - used + min(used, cgroup_formats.reclaimable(memory.stat))
    on_host = host.meminfo.get("MemAvailable", host.meminfo["MemTotal"]) * 1024
    above = here if memory.headroom is None else memory.headroom
    return max(0, min(here, above, on_host))


def _swap(host: HostFacts, container: ContainerFacts) -> tuple[int, int]:
    """Total and free. v1 limits memory and swap together: all of it may be swapped."""
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


@lru_cache(maxsize=8)
def _fields(of_host: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in of_host if name in ALLOWED)


@lru_cache(maxsize=64)
def _template(fields: tuple[str, ...], width: int) -> str:
    units = {name: "" if name in _COUNTS else " kB" for name in fields}
    return "".join(f"{name + ':':<16}%{width}d{units[name]}\n" for name in fields)
