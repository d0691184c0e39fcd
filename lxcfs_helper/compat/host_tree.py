# SPDX-License-Identifier: Apache-2.0
"""The names that lxcfs offers, and what the host has there. Blocking, but only on the kernel's own
file systems. Knows no container.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.hostfs import HostFs

CPU_DIRECTORY = "sys/devices/system/cpu"
_PROC_FILES = (
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "slabinfo",
    "stat",
    "swaps",
    "uptime",
)
_PRESSURE_FILES = ("cpu", "io", "irq", "memory")
_READ_SIZE = 1 << 17


@dataclass(frozen=True, slots=True)
class Node:
    """What a path is. `mode` as in stat(2), without any right to write."""

    mode: int
    size: int = 0

    @property
    def directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


DIRECTORY = Node(stat.S_IFDIR | 0o555)
FILE = Node(stat.S_IFREG | 0o444)


class HostTree:
    """Paths are relative to the root of the file system, such as `proc/meminfo`."""

    def __init__(self, host: HostFs) -> None:
        self._host = host
        self._listings: dict[str, tuple[str, ...]] = {
            "": ("cgroup", "proc", "sys"),
            "cgroup": (),
            "proc": self._offered(),
            "sys": ("devices",),
            "sys/devices": ("system",),
            "sys/devices/system": ("cpu",),
        }
        if "pressure" in self._listings["proc"]:
            pressure = [n for n in _PRESSURE_FILES if (host.proc / "pressure" / n).exists()]
            self._listings["proc/pressure"] = tuple(pressure)
        self._files = frozenset(
            f"{at}/{name}"
            for at in ("proc", "proc/pressure")
            for name in self._listings.get(at, ())
            if f"{at}/{name}" not in self._listings
        )

    def _offered(self) -> tuple[str, ...]:
        there = [name for name in _PROC_FILES if (self._host.proc / name).exists()]
        return (*there, *(["pressure"] if (self._host.proc / "pressure").is_dir() else []))

    def node(self, path: str) -> Node | None:
        """None: there is nothing."""
        if path in self._listings:
            return DIRECTORY
        if path in self._files:
            return FILE
        if not f"{path}/".startswith(f"{CPU_DIRECTORY}/"):
            return None
        try:
            status = os.lstat(self._real(path))
        except OSError:
            return None
        return Node(status.st_mode & ~0o222, status.st_size)

    def names(self, path: str) -> Sequence[str]:
        """What is in a directory. Raises OSError."""
        found = self._listings.get(path)
        return found if found is not None else sorted(os.listdir(self._real(path)))

    def link(self, path: str) -> bytes:
        """Where a symbolic link leads. Raises OSError."""
        return os.fsencode(Path(self._real(path)).readlink())

    def text(self, path: str) -> bytes:
        """All of a file. Raises OSError."""
        descriptor = os.open(self._real(path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts = []
            while part := os.read(descriptor, _READ_SIZE):
                parts.append(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)
        finally:
            os.close(descriptor)

    def _real(self, path: str) -> str:
        top, _, rest = path.partition("/")
        base = self._host.proc if top == "proc" else self._host.sys
        return f"{base}/{rest}"
