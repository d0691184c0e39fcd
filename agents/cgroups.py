# SPDX-License-Identifier: Apache-2.0
"""What a cgroup may use and does use, in domain words: v1, v2 and both side by side (hybrid).

Reads only. How the versions keep it is in `agents.cgroup_memory`, `cgroup_cpu`, `cgroup_io` and
`cgroup_huge_pages`, what their texts mean in `agents.cgroup_formats`. Knows no container: whoever
asks knows which cgroup is meant.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from agents import cgroup_formats as formats
from agents import cgroup_io
from agents.cgroup_cpu import CpuV1, CpuV2
from agents.cgroup_formats import (
    CgroupPaths,
    CpuLevel,
    CpuTimes,
    Headroom,
    HugePages,
    MemoryLevel,
)
from agents.cgroup_huge_pages import huge_pages
from agents.cgroup_io import IoV1, IoV2, NoIo
from agents.cgroup_io_formats import IoCounts
from agents.cgroup_memory import MemoryV1, MemoryV2
from agents.cgroup_tree import Branch, Directories, Directory
from agents.errors import Unavailable
from agents.hostfs import HostFs

__all__ = [
    "Cgroup",
    "CgroupPaths",
    "Cgroups",
    "CpuCgroup",
    "CpuLevel",
    "CpuTimes",
    "Headroom",
    "HugePages",
    "IoCgroup",
    "IoCounts",
    "LinuxCgroups",
    "MemoryCgroup",
    "MemoryLevel",
    "OwnFile",
]


class MemoryCgroup(Protocol):
    """Memory of a cgroup and its descendants. None: this kernel does not tell, or it is gone."""

    @property
    def swap_with_memory(self) -> bool:
        """Whether a level's `swap` limits memory and swap together (v1)."""

    def levels(self) -> tuple[MemoryLevel, ...]:
        """The cgroup's own limits, then those of its ancestors; the root has none."""

    def limits_activity(self) -> object:
        """Differs when `levels` does, and costs less; read once in a round."""

    def used(self) -> int | None:
        """Bytes charged."""

    def activity(self) -> bytes | None:
        """Differs when `used` does, and costs next to nothing; None: it is gone."""

    def activity_above(self) -> tuple[bytes | None, ...]:
        """The same of those ancestors that limit it: it differs when `headroom` may."""

    def stat(self) -> Mapping[str, int]:
        """memory.stat under v2's names; what this kernel does not tell is absent."""

    def headroom(self) -> Headroom | None:
        """Bytes it can still get before it, or an ancestor, is at a limit: the least of
        limit - used + reclaimable on the way to the root. None: nobody there has a limit.

        The limits are those that `levels` gave last."""

    def swap_used(self) -> int | None:
        """Bytes swapped out."""

    def swappiness(self) -> int | None:
        """v1's (0 forbids swapping); None on v2, which has none."""


class CpuCgroup(Protocol):
    """CPU of a cgroup and its descendants."""

    def levels(self) -> tuple[CpuLevel, ...]:
        """The cgroup's own quota, then those of its ancestors; the root has none."""

    def limits_activity(self) -> object:
        """Differs when `levels` or `allowed` does, and costs less; read once in a round."""

    def allowed(self) -> frozenset[int] | None:
        """The CPUs it may run on, whoever restricted them; None: unknown."""

    def activity(self) -> bytes | None:
        """Differs when CPU time was used, and costs next to nothing; None: it is gone."""

    def activity_above(self) -> bytes | None:
        """The same of the topmost cgroup that contains it, read once in a round: as long as it
        stands still, so does everything in it. None: there is none but the root."""

    def times(self) -> CpuTimes | None:
        """CPU time used so far, and how long the nearest quota held it up; None: it is gone."""


class IoCgroup(Protocol):
    """What a cgroup and its descendants did on block devices."""

    def devices(self) -> Mapping[tuple[int, int], IoCounts] | None:
        """By device number, those that were used at all; the same object as long as nothing was
        read or written. None: nobody counts it."""


class OwnFile(NamedTuple):
    """Where a cgroup file is here, and where below the root of its hierarchy."""

    path: Path
    root: str


class Cgroup(Protocol):
    """One cgroup, open to be read again and again."""

    @property
    def memory(self) -> MemoryCgroup: ...

    @property
    def cpu(self) -> CpuCgroup: ...

    @property
    def io(self) -> IoCgroup: ...

    def huge_pages(self, size_kib: int) -> HugePages | None:
        """Those of this size; None: nobody counts them."""

    def threads(self) -> tuple[int, ...]:
        """Every thread in it and below it; walks its directories."""

    def waited(self) -> bytes | None:
        """Differs when a thread in it waited for a device; None: nobody tells."""

    def own_v2(self, name: str) -> OwnFile | None:
        """This file of its cgroup2 directory, also beside v1's controllers; None: there is none, or
        it is the root's, which is everybody's."""

    def close(self) -> None: ...


class Cgroups(Protocol):
    """The cgroup tree of the host. Not thread-safe."""

    def read_anew(self) -> None:
        """Begin a round of readings. Within one, limits and what tells of memory and CPU time are
        read once, however often they are needed; everything else whenever it is asked for."""

    def paths(self, pid: int) -> CgroupPaths:
        """Where this process is. Raises ProcessLookupError when it is gone."""

    def open(self, paths: CgroupPaths) -> Cgroup:
        """Read this cgroup often. Raises Unavailable when no files of it can be reached."""

    def pids(self, paths: CgroupPaths) -> frozenset[int]:
        """All processes in this cgroup and below it."""


class LinuxCgroups:
    """The kernel's, by its files."""

    def __init__(self, host: HostFs) -> None:
        self._host = host
        self._directories = Directories()
        places = (host.cgroup, host.cgroup / "unified")
        self._unified = next((at for at in places if (at / "cgroup.controllers").exists()), None)

    def read_anew(self) -> None:
        self._directories.rounds.number += 1

    def paths(self, pid: int) -> CgroupPaths:
        try:
            text = self._host.of_pid(pid, "cgroup").read_text(errors="surrogateescape")
        except FileNotFoundError:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None
        return formats.parse_paths(text)

    def open(self, paths: CgroupPaths) -> Cgroup:
        if paths.outside:
            raise Unavailable(
                f"the cgroup {paths.all()[0]!r} is outside of this agent's cgroup namespace",
                remedy="run the agent in the host's cgroup namespace",
            )
        memory, cpu = self._branch("memory", paths), self._branch("cpu", paths)
        if memory is None or cpu is None:
            raise Unavailable(
                "this process is in no cgroup with the memory and cpu controllers",
                remedy="check that the host's cgroup file systems are mounted below "
                f"{str(self._host.cgroup)!r}",
            )
        return _OpenCgroup(
            self._directories,
            memory,
            cpu,
            self._accounting(paths),
            io=self._branch("blkio", paths),
            huge_pages=self._branch("hugetlb", paths),
            unified=self._own_unified(paths),
        )

    def pids(self, paths: CgroupPaths) -> frozenset[int]:
        branch = self._branch("memory", paths)
        found: set[int] = set()
        for at, _, _ in os.walk(branch.directory) if branch else ():
            try:
                found.update(map(int, (Path(at) / "cgroup.procs").read_text().split()))
            except OSError:  # removed meanwhile, or a threaded cgroup of v2
                continue
        return frozenset(found)

    def _branch(self, controller: str, paths: CgroupPaths) -> Branch | None:
        if controller in paths.controllers:
            return Branch(1, self._host.cgroup / controller, paths.controllers[controller])
        if self._unified is not None and paths.unified is not None:
            return Branch(2, self._unified, paths.unified)
        return None

    def _own_unified(self, paths: CgroupPaths) -> Branch | None:
        if self._unified is None or paths.unified is None or paths.unified == "/":
            return None
        return Branch(2, self._unified, paths.unified)

    def _accounting(self, paths: CgroupPaths) -> tuple[Branch | None, Branch | None]:
        """v1 counts CPU time and allows CPUs in hierarchies of their own."""
        return self._branch("cpuacct", paths), self._branch("cpuset", paths)


class _OpenCgroup:
    """What `LinuxCgroups.open` gives."""

    def __init__(
        self,
        directories: Directories,
        memory: Branch,
        cpu: Branch,
        accounting: tuple[Branch | None, Branch | None],
        *,
        io: Branch | None,
        huge_pages: Branch | None,
        unified: Branch | None,
    ) -> None:
        self._directories = directories
        self._chains: list[Sequence[Directory]] = []
        chain = self._chain(memory)
        self.memory: MemoryCgroup = MemoryV1(chain) if memory.version == 1 else MemoryV2(chain)
        self.cpu: CpuCgroup
        if cpu.version == 1:
            self.cpu = CpuV1(self._chain(cpu), *(self._chain(branch) for branch in accounting))
        else:
            self.cpu = CpuV2(self._chain(cpu))
        self.io = self._io(io)
        self._huge_pages = huge_pages
        self._huge_pages_chain = self._chain(huge_pages)
        self._tasks = cpu.directory
        self._unified = unified
        self._unified_chain = self._chain(unified)

    def _io(self, branch: Branch | None) -> IoCgroup:
        if branch is None or branch.path == "/":  # the root's is everybody's
            return NoIo()
        chain = self._chain(branch)
        return IoV1(chain) if branch.version == 1 else IoV2(chain)

    def huge_pages(self, size_kib: int) -> HugePages | None:
        branch = self._huge_pages
        if branch is None:
            return None
        return huge_pages(self._huge_pages_chain, branch.version, size_kib)

    def threads(self) -> tuple[int, ...]:
        return cgroup_io.threads(self._tasks)

    def waited(self) -> bytes | None:
        return self._unified_chain[0].raw("io.pressure") if self._unified_chain else None

    def own_v2(self, name: str) -> OwnFile | None:
        branch = self._unified
        path = None if branch is None else branch.directory / name
        if branch is None or path is None or not path.exists():
            return None
        return OwnFile(path, f"{branch.path}/{name}")

    def close(self) -> None:
        while self._chains:
            self._directories.release(self._chains.pop())

    def _chain(self, branch: Branch | None) -> Sequence[Directory]:
        chain = self._directories.acquire(branch)
        self._chains.append(chain)
        return chain
