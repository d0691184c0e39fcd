# SPDX-License-Identifier: Apache-2.0
"""Memory of a cgroup, as v1 and as v2 keep it. Knows nothing of processes or of which cgroup is
whose.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from agents import cgroup_formats as formats
from agents.cgroup_formats import Headroom, MemoryLevel
from agents.cgroup_tree import Directory, texts


class MemoryV2:
    """memory.* of the unified hierarchy. `chain`: own directory first, root last."""

    swap_with_memory = False

    def __init__(self, chain: Sequence[Directory]) -> None:
        self._own = chain[0]
        self._limiting = self._limited = chain[:-1]

    def levels(self) -> tuple[MemoryLevel, ...]:
        levels = tuple(level.once(_limits_v2) for level in self._limited)
        self._limiting = _with_limits(self._limited, levels)
        return levels

    def limits_activity(self) -> object:
        return tuple(level.once(_limit_texts_v2) for level in self._limited)

    def used(self) -> int | None:
        return _number(self._own.once(_used_v2))

    def activity(self) -> bytes | None:
        return self._own.once(_used_v2)

    def activity_above(self) -> tuple[bytes | None, ...]:
        return tuple(level.once(_used_v2) for level in self._limiting if level is not self._own)

    def stat(self) -> Mapping[str, int]:
        return _STAT_V2.read(self._own.once(_stat))

    def headroom(self) -> Headroom | None:
        return _least(level.once(_room_v2) for level in self._limiting)

    def swap_used(self) -> int | None:
        return self._own.number("memory.swap.current")

    def swappiness(self) -> int | None:
        return None


class MemoryV1:
    """memory.* of v1's memory controller. `chain`: own directory first, root last."""

    swap_with_memory = True

    def __init__(self, chain: Sequence[Directory]) -> None:
        self._own = chain[0]
        self._limiting = self._limited = chain[:-1]

    def levels(self) -> tuple[MemoryLevel, ...]:
        levels = tuple(level.once(_limits_v1) for level in self._limited)
        self._limiting = _with_limits(self._limited, levels)
        return levels

    def limits_activity(self) -> object:
        return tuple(level.once(_limit_texts_v1) for level in self._limited)

    def used(self) -> int | None:
        return _number(self._own.once(_used_v1))

    def activity(self) -> bytes | None:
        return self._own.once(_used_v1)

    def activity_above(self) -> tuple[bytes | None, ...]:
        return tuple(level.once(_used_v1) for level in self._limiting if level is not self._own)

    def stat(self) -> Mapping[str, int]:
        return _STAT_V1.read(self._own.once(_stat))

    def headroom(self) -> Headroom | None:
        return _least(level.once(_room_v1) for level in self._limiting)

    def swap_used(self) -> int | None:
        both = self._own.number("memory.memsw.usage_in_bytes")
        memory = self.used()
        return None if both is None or memory is None else max(0, both - memory)

    def swappiness(self) -> int | None:
        return self._own.number("memory.swappiness")


_STAT_V1 = formats.Entries(formats.V1_MEMORY_NAMES)
_STAT_V2 = formats.Entries({name: name for name in formats.V2_MEMORY_NAMES})


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


_limit_texts_v2 = texts("memory.max", "memory.high", "memory.swap.max")
_limit_texts_v1 = texts("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")


def _with_limits(chain: Sequence[Directory], levels: Sequence[MemoryLevel]) -> Sequence[Directory]:
    """Those that limit memory: most ancestors do not."""
    both = zip(chain, levels, strict=True)
    return [directory for directory, level in both if (level.limit, level.high) != (None, None)]


def _used_v2(level: Directory) -> bytes | None:
    return level.raw("memory.current")


def _used_v1(level: Directory) -> bytes | None:
    return level.raw("memory.usage_in_bytes")


def _number(data: bytes | None) -> int | None:
    return None if data is None else int(data)


def _room_v2(level: Directory) -> Headroom | None:
    limits = level.last(_limits_v2)
    limit = min((x for x in (limits.limit, limits.high) if x is not None), default=None)
    return _room(limit, level, level.once(_used_v2), formats.RECLAIMABLE_V2)


def _room_v1(level: Directory) -> Headroom | None:
    limit = level.last(_limits_v1).limit
    return _room(limit, level, level.once(_used_v1), formats.RECLAIMABLE_V1)


def _room(
    limit: int | None, level: Directory, used: bytes | None, names: Sequence[bytes]
) -> Headroom | None:
    """What is left below one limit; None: there is none."""
    usage = _number(used)
    if limit is None or usage is None:
        return None
    return Headroom(max(0, limit - usage + formats.sum_of(level.once(_stat), names)), level.path)


def _stat(level: Directory) -> bytes:
    return level.raw("memory.stat") or b""


def _least(rooms: Iterable[Headroom | None]) -> Headroom | None:
    return min((room for room in rooms if room is not None), default=None)
