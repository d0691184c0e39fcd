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
#: count only where something is throttled) or BFQ. Kernels before 5.0 count no descendants there:
#: then the second of two.
_V1_FILES = tuple(
    tuple(
        (f"blkio.{who}.io_serviced{suffix}", f"blkio.{who}.io_service_bytes{suffix}")
        for suffix in ("_recursive", "")
    )
    for who in ("throttle", "bfq")
)

Devices = Mapping[tuple[int, int], IoCounts]


class IoV2:
    """io.stat of the unified hierarchy. `chain`: own directory first, root last."""

    def __init__(self, chain: Sequence[Directory]) -> None:
        self._own = chain[0]
        self._seen: str | None = None
        self._known: Devices | None = None

    def devices(self) -> Devices | None:
        text = self._own.read("io.stat")
        if text != self._seen:
            self._seen, self._known = text, None if text is None else formats.io_v2(text)
        return self._known


class IoV1:
    """blkio.* of v1's blkio controller. `chain`: own directory first, root last."""

    def __init__(self, chain: Sequence[Directory]) -> None:
        self._own = chain[0]
        self._seen: dict[str, str] = {}
        self._known: Devices | None = None

    def devices(self) -> Devices | None:
        requests = dict(self._requests())
        if requests != self._seen:  # no byte is read or written without a request
            self._seen, self._known = requests, self._read(requests)
        return self._known

    def _requests(self) -> Iterator[tuple[str, str]]:
        """Those that each counter has seen, with the name of its file of bytes."""
        for files in _V1_FILES:
            for requests, sizes in files:
                text = self._own.read(requests)
                if text is not None:
                    yield sizes, text
                    break

    def _read(self, requests: Mapping[str, str]) -> Devices | None:
        found: dict[tuple[int, int], IoCounts] | None = None
        for name, text in requests.items():
            sizes = self._own.read(name)
            if sizes is not None:
                # The first that counts a device is the one to believe.
                found = formats.io_v1(sizes, text) | (found or {})
        return found


class NoIo:
    """Where no hierarchy counts input and output."""

    def devices(self) -> Devices | None:
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
