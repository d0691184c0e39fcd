# SPDX-License-Identifier: Apache-2.0
"""What a cgroup reads and writes and which threads are in it, as v1 and as v2 keep it.

Knows nothing of processes or of which cgroup is whose.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from agents import cgroup_io_formats as formats
from agents.cgroup_io_formats import IoCounts
from agents.cgroup_tree import Directory

#: Who counts on v1 depends on the kernel and on the disk's scheduler: throttling (newer kernels
#: count only where something is throttled) or BFQ. Kernels before 5.0 count no descendants there.
_V1_FILES = tuple(
    (f"blkio.{who}.io_service_bytes{suffix}", f"blkio.{who}.io_serviced{suffix}")
    for who in ("throttle", "bfq")
    for suffix in ("_recursive", "")
)


class IoV2:
    """io.stat of the unified hierarchy. `chain`: own directory first, root last."""

    def __init__(self, chain: Sequence[Directory]) -> None:
        self._own = chain[0]

    def activity(self) -> bytes | None:
        return self._own.raw("io.stat")

    def devices(self) -> Mapping[tuple[int, int], IoCounts] | None:
        text = self._own.read("io.stat")
        return None if text is None else formats.io_v2(text)


class IoV1:
    """blkio.* of v1's blkio controller. `chain`: own directory first, root last."""

    def __init__(self, chain: Sequence[Directory]) -> None:
        self._own = chain[0]

    def activity(self) -> bytes | None:
        read = [self._own.raw(requests) for _, requests in _V1_FILES]
        return None if all(data is None for data in read) else b"".join(filter(None, read))

    def devices(self) -> Mapping[tuple[int, int], IoCounts] | None:
        found: dict[tuple[int, int], IoCounts] | None = None
        for names in _V1_FILES:
            sizes, requests = map(self._own.read, names)
            if sizes is not None and requests is not None:
                # The first that counts a device is the one to believe.
                found = formats.io_v1(sizes, requests) | (found or {})
        return found


class NoIo:
    """Where no hierarchy counts input and output."""

    def activity(self) -> bytes | None:
        return None

    def devices(self) -> Mapping[tuple[int, int], IoCounts] | None:
        return None


def threads(directory: Path) -> tuple[int, ...]:
    """Every thread of this cgroup and of those below it; none when it is gone."""
    return tuple(thread for at, _, files in os.walk(directory) for thread in _threads(at, files))


def _threads(at: str, files: Sequence[str]) -> Iterator[int]:
    name = "cgroup.threads" if "cgroup.threads" in files else "tasks"  # v1's name
    try:
        yield from map(int, Path(at, name).read_text().split())
    except OSError:  # removed meanwhile
        return
