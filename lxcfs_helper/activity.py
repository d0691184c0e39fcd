# SPDX-License-Identifier: Apache-2.0
"""Which sources of a container moved since they were last asked about.

It costs one short read (CPU time), or none where an ancestor that many containers share stands
still: nothing in a container changes its own numbers without CPU time. What others change for it
costs a few more, and is asked for where nobody is in a hurry. Keeps what it saw.
"""

from __future__ import annotations

from agents.cgroups import Cgroup
from lxcfs_helper.sources import Source

# Plain numbers: combining enumeration members costs more than reading a cgroup file.
_USED = int(Source.CPU | Source.IO | Source.LOAD)
_MEMORY = int(Source.MEMORY)


class Activity:
    """Of one cgroup. For one thread."""

    def __init__(self, cgroup: Cgroup) -> None:
        self._cgroup = cgroup
        self._above, self._cpu = cgroup.cpu.activity_above, cgroup.cpu.activity
        self._memory = cgroup.memory.activity
        self._seen_above: bytes | None = None
        self._seen_cpu: bytes | None = None
        self._seen_memory: bytes | None = None
        self._seen_headroom: tuple[bytes | None, ...] = ()

    def moved(self) -> int:
        """The sources as a number; everything that is used, the first time and where nothing counts
        CPU time. To be asked before they are read, so that no movement is missed."""
        above = self._above()
        if above is not None and above == self._seen_above:
            return 0
        self._seen_above = above
        cpu = self._cpu()
        if cpu is not None and cpu == self._seen_cpu:
            return 0
        self._seen_cpu = cpu
        return _USED | self._memory_moved()

    def moved_by_anybody(self) -> int:
        """The same, and what others changed for it: the host took memory back, a neighbour below
        the same limit used some."""
        moved = self.moved() | self._memory_moved()
        headroom = self._cgroup.memory.activity_above()
        if headroom != self._seen_headroom:
            self._seen_headroom = headroom
            return moved | _MEMORY
        return moved

    def limits(self) -> tuple[object, ...]:
        """Differs when a limit does: its own or one above."""
        return self._cgroup.memory.limits_activity(), self._cgroup.cpu.limits_activity()

    def _memory_moved(self) -> int:
        memory = self._memory()
        if memory is not None and memory == self._seen_memory:
            return 0
        self._seen_memory = memory
        return _MEMORY
