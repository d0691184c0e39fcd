# SPDX-License-Identifier: Apache-2.0
"""Cgroup directories with open files, and memory and CPU as v1 and as v2 keep them.

Reading an open file again costs a tenth of opening it again, and directories are shared: a hundred
containers have few ancestors, whose limits and headroom are worked out once in a round of readings.
Knows nothing of processes or of which cgroup is whose.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agents import cgroup_formats as formats
from agents.cgroup_formats import CpuLevel, CpuTimes, MemoryLevel

_READ_SIZE = 65536

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Branch:
    """Where one controller manages a process: hierarchy version, its root, the path below it."""

    version: int
    root: Path
    path: str

    @property
    def directory(self) -> Path:
        return self.root / self.path.lstrip("/")


class Rounds:
    """Counts rounds of readings; what was kept in an earlier one is read again."""

    def __init__(self) -> None:
        self.number = 0


class Directory:
    """One cgroup directory; its files are opened when first asked for, and stay open."""

    def __init__(self, location: Path, path: str, rounds: Rounds) -> None:
        self.location = location
        self.path = path
        self.users = 0
        self._files: dict[str, int | None] = {}
        self._rounds = rounds
        self._known: dict[object, tuple[int, object]] = {}

    def once(self, what: Callable[[Directory], T]) -> T:
        """What this function makes of the directory; worked out once in a round."""
        found = self._known.get(what)
        if found is None or found[0] != self._rounds.number:
            found = self._known[what] = self._rounds.number, what(self)
        return found[1]  # type: ignore[return-value] # the key is the function that made it

    def read(self, name: str) -> str | None:
        """The text of a file; None when there is none or the cgroup is gone."""
        data = self.raw(name)
        return None if data is None else data.decode()

    def raw(self, name: str) -> bytes | None:
        """What a file holds; None when there is none or the cgroup is gone."""
        try:
            descriptor = self._files[name]
        except KeyError:
            descriptor = self._files[name] = self._open(name)
        if descriptor is None:
            return None
        try:
            return os.pread(descriptor, _READ_SIZE, 0)
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.EOPNOTSUPP):  # removed; switched off
                return None
            raise

    def number(self, name: str) -> int | None:
        text = self.read(name)
        return None if text is None else int(text)

    def limit(self, name: str) -> int | None:
        text = self.read(name)
        return None if text is None else formats.parse_limit(text)

    def flat(self, name: str) -> dict[str, int] | None:
        text = self.read(name)
        return None if text is None else formats.parse_flat(text)

    def close(self) -> None:
        for descriptor in self._files.values():
            if descriptor is not None:
                os.close(descriptor)
        self._files.clear()

    def _open(self, name: str) -> int | None:
        try:
            return os.open(self.location / name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None


class Directories:
    """All that are open, each once, closed when its last user has let it go."""

    def __init__(self) -> None:
        self.rounds = Rounds()
        self._open: dict[Path, Directory] = {}

    def acquire(self, branch: Branch | None) -> tuple[Directory, ...]:
        """The branch's directory and its ancestors, the root of the hierarchy last."""
        paths = () if branch is None else formats.up(branch.path)
        chain = []
        for path in paths:
            assert branch is not None
            location = branch.root / path.lstrip("/")
            directory = self._open.setdefault(location, Directory(location, path, self.rounds))
            directory.users += 1
            chain.append(directory)
        return tuple(chain)

    def release(self, chain: Sequence[Directory]) -> None:
        for directory in chain:
            directory.users -= 1
            if directory.users == 0:
                del self._open[directory.location]
                directory.close()


class MemoryV2:
    """memory.* of the unified hierarchy. `chain`: own directory first, root last."""

    swap_with_memory = False

    def __init__(self, chain: Sequence[Directory]) -> None:
        self._own = chain[0]
        self._limited = chain[:-1]

    def levels(self) -> tuple[MemoryLevel, ...]:
        return tuple(level.once(_limits_v2) for level in self._limited)

    def used(self) -> int | None:
        return self._own.number("memory.current")

    def activity(self) -> bytes | None:
        return self._own.raw("memory.current")

    def stat(self) -> Mapping[str, int]:
        return formats.parse_flat(self._own.once(_stat).decode())

    def headroom(self) -> int | None:
        return _least(level.once(_room_v2) for level in self._limited)

    def swap_used(self) -> int | None:
        return self._own.number("memory.swap.current")

    def swappiness(self) -> int | None:
        return None


class MemoryV1:
    """memory.* of v1's memory controller. `chain`: own directory first, root last."""

    swap_with_memory = True

    def __init__(self, chain: Sequence[Directory]) -> None:
        self._own = chain[0]
        self._limited = chain[:-1]

    def levels(self) -> tuple[MemoryLevel, ...]:
        return tuple(level.once(_limits_v1) for level in self._limited)

    def used(self) -> int | None:
        return self._own.number("memory.usage_in_bytes")

    def activity(self) -> bytes | None:
        return self._own.raw("memory.usage_in_bytes")

    def stat(self) -> Mapping[str, int]:
        return formats.memory_stat_v1(formats.parse_flat(self._own.once(_stat).decode()))

    def headroom(self) -> int | None:
        return _least(level.once(_room_v1) for level in self._limited)

    def swap_used(self) -> int | None:
        both = self._own.number("memory.memsw.usage_in_bytes")
        memory = self.used()
        return None if both is None or memory is None else max(0, both - memory)

    def swappiness(self) -> int | None:
        return self._own.number("memory.swappiness")


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

    def activity(self) -> bytes | None:
        return self._chain[0].raw("cpu.stat")

    def times(self) -> CpuTimes | None:
        flat = self._chain[0].flat("cpu.stat")
        if flat is None or "usage_usec" not in flat:
            return None
        return formats.cpu_times_v2(flat, _throttling(self._chain[:-1], _quota_v2))


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

    def activity(self) -> bytes | None:
        return self._cpuacct[0].raw("cpuacct.usage") if self._cpuacct else None

    def times(self) -> CpuTimes | None:
        usage = self._cpuacct[0].read("cpuacct.usage_all") if self._cpuacct else None
        if usage is None:
            return None
        return formats.cpu_times_v1(usage, _throttling(self._cpu[:-1], _quota_v1))


def _limits_v2(level: Directory) -> MemoryLevel:
    return MemoryLevel(
        level.path,
        level.limit("memory.max"),
        level.limit("memory.high"),
        level.limit("memory.swap.max"),
    )


def _limits_v1(level: Directory) -> MemoryLevel:
    return MemoryLevel(
        level.path,
        level.limit("memory.limit_in_bytes"),
        None,
        level.limit("memory.memsw.limit_in_bytes"),
    )


def _room_v2(level: Directory) -> int | None:
    limits = level.once(_limits_v2)
    limit = min((x for x in (limits.limit, limits.high) if x is not None), default=None)
    return _room(limit, level, "memory.current", formats.RECLAIMABLE_V2)


def _room_v1(level: Directory) -> int | None:
    limit = level.once(_limits_v1).limit
    return _room(limit, level, "memory.usage_in_bytes", formats.RECLAIMABLE_V1)


def _room(limit: int | None, level: Directory, used: str, names: Sequence[bytes]) -> int | None:
    """What is left below one limit; None: there is none."""
    if limit is None:
        return None
    usage = level.number(used)
    return None if usage is None else limit - usage + formats.sum_of(level.once(_stat), names)


def _stat(level: Directory) -> bytes:
    return level.raw("memory.stat") or b""


def _least(rooms: Iterable[int | None]) -> int | None:
    known = [room for room in rooms if room is not None]
    return max(0, min(known)) if known else None


def _quota_v2(level: Directory) -> float | None:
    text = level.read("cpu.max")
    return None if text is None else formats.parse_cpu_max(text)


def _quota_v1(level: Directory) -> float | None:
    quota, period = level.read("cpu.cfs_quota_us"), level.read("cpu.cfs_period_us")
    return None if quota is None or period is None else formats.cpu_quota_v1(quota, period)


def _throttling(
    chain: Sequence[Directory], quota: Callable[[Directory], float | None]
) -> Mapping[str, int] | None:
    """cpu.stat of the nearest cgroup with a quota; None: nobody has one."""
    limiting = next((level for level in chain if level.once(quota) is not None), None)
    return None if limiting is None else limiting.flat("cpu.stat")
