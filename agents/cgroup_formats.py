# SPDX-License-Identifier: Apache-2.0
"""The texts of cgroup files, v1 and v2, as values in bytes and seconds. Pure: text in, values out.

Every number that may be absent is None when it is: a limit that is not set, a value this kernel or
this version does not tell. Names inside `MemoryStat` are those of v2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

#: v1 writes "no limit" as the largest page count in bytes; anything in that region means the same.
_V1_UNLIMITED = 1 << 62

#: v1's hierarchical names in memory.stat, and what v2 calls them.
V1_MEMORY_NAMES: Mapping[str, str] = {
    "total_cache": "file",
    "total_rss": "anon",
    "total_rss_huge": "anon_thp",
    "total_shmem": "shmem",
    "total_mapped_file": "file_mapped",
    "total_dirty": "file_dirty",
    "total_writeback": "file_writeback",
    "total_swapcached": "swapcached",
    "total_inactive_anon": "inactive_anon",
    "total_active_anon": "active_anon",
    "total_inactive_file": "inactive_file",
    "total_active_file": "active_file",
    "total_unevictable": "unevictable",
}

#: Entries of v2's memory.stat in bytes; the rest counts events.
V2_MEMORY_NAMES = (
    *V1_MEMORY_NAMES.values(),
    *("kernel_stack", "pagetables", "sec_pagetables", "percpu", "vmalloc", "zswap", "zswapped"),
    *("shmem_thp", "file_thp", "slab_reclaimable", "slab_unreclaimable"),
)

#: Entries of memory.stat that could be taken back without swapping.
RECLAIMABLE_V1 = (b"total_active_file", b"total_inactive_file")
RECLAIMABLE_V2 = (b"active_file", b"inactive_file", b"slab_reclaimable")


@dataclass(frozen=True, slots=True)
class CgroupPaths:
    """Where a process is: the path below the root of each hierarchy.

    `unified` is None without cgroup2; `controllers` holds v1's, one entry for each controller.
    """

    unified: str | None
    controllers: Mapping[str, str] = field(default_factory=dict)

    def all(self) -> tuple[str, ...]:
        """Every path, the same one once."""
        found = [*self.controllers.values(), *([] if self.unified is None else [self.unified])]
        return tuple(dict.fromkeys(found))

    @property
    def outside(self) -> bool:
        """Whether a path leads out of our own cgroup namespace, where no file can be reached."""
        return any(".." in path.split("/") for path in self.all())


@dataclass(frozen=True, slots=True)
class MemoryLevel:
    """Memory limits of one cgroup on the way to the root, in bytes; None is no limit.

    `high` is where v2 begins to throttle. `swap` limits swap alone on v2, memory and swap together
    on v1.
    """

    path: str
    limit: int | None
    high: int | None
    swap: int | None


@dataclass(frozen=True, slots=True)
class CpuLevel:
    """CPU quota of one cgroup on the way to the root, in CPUs; None is no limit."""

    path: str
    quota: float | None


class Headroom(NamedTuple):
    """Bytes that a cgroup can still get below the tightest limit, and the cgroup that sets it."""

    value: int
    path: str


class HugePages(NamedTuple):
    """Bytes in huge pages of one size: the tightest limit up the tree (None: there is none), and
    what is used."""

    limit: int | None
    used: int


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """CPU time of a cgroup since it was made, and how long a quota held it up (0: none did)."""

    user_s: float
    system_s: float
    throttled_s: float

    @property
    def used_s(self) -> float:
        return self.user_s + self.system_s


def parse_paths(text: str) -> CgroupPaths:
    """`/proc/<pid>/cgroup`. v1's named hierarchies (`name=systemd`) control nothing: left out."""
    unified: str | None = None
    controllers: dict[str, str] = {}
    # Not splitlines(): in the name of a cgroup the kernel forbids newlines alone, and what else
    # splits there would let whoever may make cgroups add lines of his own.
    for line in text.split("\n"):
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        path = path.removesuffix(" (deleted)")
        if number == "0" and not names:
            unified = path
        else:
            controllers |= {name: path for name in names.split(",") if "=" not in name and name}
    return CgroupPaths(unified, controllers)


def up(path: str) -> tuple[str, ...]:
    """The path itself and all that contain it, the root (`/`) last."""
    parts = [part for part in path.split("/") if part]
    return tuple("/" + "/".join(parts[:length]) for length in range(len(parts), -1, -1))


def of_container(paths: CgroupPaths, name: str) -> CgroupPaths:
    """Cut off what a container made below its own cgroup (the first with this in its name), such as
    systemd's init.scope.

    Beside v1's controllers the place in cgroup2 may be another's: then it tells nothing.
    """
    unified = paths.unified
    return CgroupPaths(
        None if unified is None or name not in unified else _up_to(unified, name),
        {controller: _up_to(path, name) for controller, path in paths.controllers.items()},
    )


def _up_to(path: str, name: str) -> str:
    parts = path.split("/")
    own = [number for number, part in enumerate(parts) if name in part]
    return "/".join(parts[: own[0] + 1]) if own else path


def parse_limit(text: str) -> int | None:
    """A byte or process limit: `max`, v1's -1 and its huge number are None."""
    value = text.strip()
    if value == "max" or not value:
        return None
    number = int(value)
    return None if number < 0 or number >= _V1_UNLIMITED else number


class Entries:
    """Some numbers of a flat file that is read again and again, under names of our own.

    Where they are is remembered, and holds as long as the file lists the same names.
    """

    def __init__(self, wanted: Mapping[str, str]) -> None:
        self._wanted = {theirs.encode(): ours for theirs, ours in wanted.items()}
        self._layout: _Layout = _Layout([], (), ())

    def read(self, data: bytes) -> dict[str, int]:
        """By our names; what the file does not tell is absent."""
        words = data.split()
        layout = self._layout
        if layout.listed != words[::2]:
            layout = self._layout = self._learned(words[::2])
        return {name: int(words[at]) for name, at in zip(layout.names, layout.at, strict=True)}

    def _learned(self, listed: list[bytes]) -> _Layout:
        at = {word: 2 * place + 1 for place, word in enumerate(listed)}
        found = [name for name in self._wanted if name in at]
        return _Layout(
            listed, tuple(self._wanted[name] for name in found), tuple(at[name] for name in found)
        )


class _Layout(NamedTuple):
    listed: list[bytes]
    names: tuple[str, ...]
    at: tuple[int, ...]


def sum_of(text: bytes, names: Sequence[bytes]) -> int:
    """The numbers of a few entries of a flat file; absent ones count nothing. Faster than parsing
    all of it."""
    total = 0
    lines = b"\n" + text
    for name in names:
        _, found, rest = lines.partition(b"\n" + name + b" ")
        if found:
            total += int(rest[: rest.find(b"\n")])
    return total


def reclaimable(stat: Mapping[str, int]) -> int:
    """What could be taken back without swapping: file pages and, on v2, reclaimable slab."""
    return (
        stat.get("active_file", 0) + stat.get("inactive_file", 0) + stat.get("slab_reclaimable", 0)
    )


def parse_cpu_max(text: str) -> float | None:
    """v2's `cpu.max` in CPUs: `50000 100000` is 0.5."""
    quota, _, period = text.strip().partition(" ")
    return None if quota in ("max", "") else int(quota) / int(period or 100_000)


def cpu_quota_v1(quota: str, period: str) -> float | None:
    """v1's quota and period, in CPUs."""
    microseconds = int(quota)
    return None if microseconds < 0 else microseconds / int(period)


def parse_cpu_list(text: str) -> frozenset[int] | None:
    """`0-3,8` as a set; None when nothing is set."""
    cpus: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            cpus.update(range(int(first), int(last or first) + 1))
    return frozenset(cpus) or None


def format_cpu_list(cpus: frozenset[int]) -> str:
    """The kernel's way to write a set of CPUs: `0-3,8`."""
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and ranges[-1][1] == cpu - 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(f"{a}-{b}" if b > a else f"{a}" for a, b in ranges)


def cpu_times_v2(stat: bytes, limiting: bytes) -> CpuTimes:
    """v2's cpu.stat, and that of the cgroup with the nearest quota (empty: there is no quota)."""
    user, system = sum_of(stat, (b"user_usec",)), sum_of(stat, (b"system_usec",))
    return CpuTimes(user / 1e6, system / 1e6, sum_of(limiting, (b"throttled_usec",)) / 1e6)


def cpu_times_v1(usage_all: bytes, limiting: bytes) -> CpuTimes:
    """v1's cpuacct.usage_all (a heading, then `cpu user system` in nanoseconds), and the cpu.stat
    of the cgroup whose quota is the nearest (empty: there is no quota).
    """
    words = usage_all.split()[3:]
    throttled = sum_of(limiting, (b"throttled_time",))
    return CpuTimes(
        sum(map(int, words[1::3])) / 1e9, sum(map(int, words[2::3])) / 1e9, throttled / 1e9
    )
