# SPDX-License-Identifier: Apache-2.0
"""A container's limits, and how they are written into a cgroup directory of v1 or v2.

A limit goes to whichever directory has its file. Knows one directory at a time, no hierarchy.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from agents.errors import AgentError

_PERIOD_US = 100_000
_LEAST_QUOTA_US = 1_000  # the kernel takes no less
_FILES = {
    "cpu": ("cpu.max", "cpu.cfs_quota_us"),
    "memory": ("memory.max", "memory.limit_in_bytes"),
    "cpuset": ("cpuset.cpus",),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no limit. `cpu_millis` is a quota; `cpuset` a list such as `0-1,4`."""

    cpu_millis: int | None = None
    memory_bytes: int | None = None
    cpuset: str | None = None

    def write(self, directory: Path) -> None:
        """Set those that are not None and have a file here. Raises AgentError with the reason."""
        what = ""
        try:
            if self.cpu_millis is not None:
                what = f"cpu limit of {self.cpu_millis} thousandths"
                _write_cpu(directory, self.cpu_millis)
            if self.memory_bytes is not None:
                what = f"memory limit of {self.memory_bytes} bytes"
                _write_memory(directory, self.memory_bytes)
            if self.cpuset is not None:
                what = f"cpuset {self.cpuset!r}"
                _write_cpuset(directory, self.cpuset)
        except OSError as error:
            raise AgentError(
                f"cannot set a {what}: {error.strerror}",
                remedy="choose one that this machine, and what runs already, allow",
            ) from error


def missing(directories: Collection[Path]) -> frozenset[str]:
    """Which kinds of limits no directory of these has a file for."""
    return frozenset(
        kind
        for kind, names in _FILES.items()
        if not any((directory / name).exists() for directory in directories for name in names)
    )


def _write_cpu(directory: Path, millis: int) -> None:
    quota = max(_LEAST_QUOTA_US, millis * _PERIOD_US // 1000)
    if (directory / "cpu.cfs_quota_us").exists():
        (directory / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (directory / "cpu.cfs_quota_us").write_text(str(quota))
    elif (directory / "cpu.max").exists():
        (directory / "cpu.max").write_text(f"{quota} {_PERIOD_US}")


def _write_memory(directory: Path, limit: int) -> None:
    """Without swap, as on a node of Kubernetes."""
    memory = directory / "memory.limit_in_bytes"
    if memory.exists():
        _write_memory_v1(memory, directory / "memory.memsw.limit_in_bytes", limit)
        return
    for name, value in (("memory.max", limit), ("memory.swap.max", 0)):
        if (directory / name).exists():
            (directory / name).write_text(str(value))


def _write_memory_v1(memory: Path, with_swap: Path, limit: int) -> None:
    order = [memory]
    if with_swap.exists():  # only where the kernel accounts swap
        order.append(with_swap)
        # It is never less than memory alone: growing, it goes first; shrinking, last.
        if limit > int(with_swap.read_text()):
            order.reverse()
    for file in order:
        file.write_text(str(limit))


def _write_cpuset(directory: Path, cpus: str) -> None:
    if (directory / "cpuset.cpus").exists():
        (directory / "cpuset.cpus").write_text(cpus)
