# SPDX-License-Identifier: Apache-2.0
"""What one container is to be told when it asks the kernel: read from its cgroup at that moment, so
that a limit which is set anew holds at once. Knows no system call's layout and no notification.
"""

from __future__ import annotations

import ctypes
import math
import time
from dataclasses import dataclass, replace
from typing import Protocol

from agents.cgroup_formats import CgroupPaths
from agents.cgroups import Cgroup, Cgroups
from lxcfs_helper.affinity.answers import SystemInfo, chosen, first_cpu, read_system_info
from lxcfs_helper.container_limits import Limits, tightest
from lxcfs_helper.facts import ContainerFacts, HostFacts
from lxcfs_helper.reading import read_limits, read_memory
from lxcfs_helper.views import limits_any, meminfo

#: Sets of CPUs that were chosen; a container has few.
_MOST_CHOSEN = 64
_SYSINFO_BYTES = 112

_sysinfo = ctypes.CDLL(None).sysinfo


class Shown(Protocol):
    """A container that is shown views. Looked at from another thread than it is changed in."""

    @property
    def facts(self) -> ContainerFacts | None:
        """What they are made of now; None: nothing yet."""


class Node(Protocol):
    """Where it runs; likewise."""

    @property
    def host_facts(self) -> HostFacts | None:
        """The same of the node."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What is known of a container that is answered; equal as long as nothing else is.

    `started_s`: when its first process was started, in
    seconds since boot; `boot_offset_s`: how far its time namespace shifts that clock. `own_uptime`:
    whether it is shown its own uptime.
    """

    cgroup: CgroupPaths
    container: Shown
    node: Node
    started_s: float = 0.0
    boot_offset_s: int = 0
    own_uptime: bool = False


class Values:
    """For one thread at a time. Raises Unavailable when the cgroup cannot be read."""

    def __init__(self, container_id: str, terms: Terms, cgroups: Cgroups) -> None:
        self._id, self._terms, self._cgroups = container_id, terms, cgroups
        self._cgroup: Cgroup = cgroups.open(terms.cgroup)
        self._chosen: dict[tuple[int, int], int] = {}

    def close(self) -> None:
        self._cgroup.close()

    def threads(self) -> tuple[int, ...]:
        """All of the container's, as the host numbers them."""
        return self._cgroup.threads()

    def cpus(self, real: int) -> int:
        """The CPUs that a thread is to see which may run on these, a bit for each: as many as the
        quota rounded up."""
        self._cgroups.read_anew()
        quota = tightest((level.quota, level.path) for level in self._cgroup.cpu.levels())
        if quota is None:
            return real
        key = real, max(1, math.ceil(quota.value))
        found = self._chosen.get(key)
        if found is None:
            if len(self._chosen) >= _MOST_CHOSEN:
                self._chosen.clear()
            found = self._chosen[key] = chosen(*key, first_cpu(self._id, real))
        return found

    def system(self) -> SystemInfo | None:
        """None: the kernel's own answer is the truth, or nothing is known yet."""
        host, facts = self._terms.node.host_facts, self._terms.container.facts
        if host is None or facts is None:
            return None
        self._cgroups.read_anew()
        limits = read_limits(self._cgroup)
        if not limits_any(limits, host):
            return None
        return self._memory(self._activity(own_system_info(), facts), limits, host)

    def _activity(self, info: SystemInfo, facts: ContainerFacts) -> SystemInfo:
        """Load and threads, as `loadavg` shows them, and uptime."""
        load, terms = facts.load, self._terms
        uptime_s = info.uptime_s + terms.boot_offset_s
        if terms.own_uptime:
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            uptime_s = max(0, math.ceil(now - terms.started_s))
        threads = load.threads if load.at else len(self._cgroup.threads())
        return replace(info, uptime_s=uptime_s, loads=load.averages, threads=threads)

    def _memory(self, info: SystemInfo, limits: Limits, host: HostFacts) -> SystemInfo:
        """Memory and swap, as `meminfo` shows them."""
        if not limits.limits_memory(host.memory_bytes):
            return info
        memory = read_memory(self._cgroup, host)
        if memory is None:
            return info
        facts = ContainerFacts(limits, memory)
        total, free = meminfo.total_and_free(host, facts)
        total_swap, free_swap = meminfo.swap(host, facts)
        return replace(
            info,
            total=total,
            free=free,
            shared=min(total, memory.stat.get("shmem", 0)),
            buffers=0,
            total_swap=total_swap,
            free_swap=free_swap,
            total_high=0,
            free_high=0,
        )


def own_system_info() -> SystemInfo:
    """The host's, as the kernel tells it us."""
    buffer = ctypes.create_string_buffer(_SYSINFO_BYTES)
    _sysinfo(buffer)
    return read_system_info(buffer.raw)
