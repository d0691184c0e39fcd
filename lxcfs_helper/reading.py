# SPDX-License-Identifier: Apache-2.0
"""Read the host's files and a container's cgroup into the values that views are rendered from.

Decides nothing: what a reading means is in `container_limits` and the views.
"""

from __future__ import annotations

import os
import re

from agents.cgroup_formats import parse_cpu_list
from agents.cgroups import Cgroup
from agents.errors import Unavailable
from agents.hostfs import HostFs
from lxcfs_helper import container_limits
from lxcfs_helper.container_limits import Limits
from lxcfs_helper.facts import CpuAccount, HostFacts, MemoryFacts
from lxcfs_helper.views import stat

_BOOT_TIME = re.compile(r"^btime (\d+)$", re.MULTILINE)
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class HostReader:
    """The host's values. What cannot change while CPUs neither come nor go is read once."""

    def __init__(self, host: HostFs) -> None:
        self._host = host
        self._cpus_text = ""
        self._cpus: frozenset[int] = frozenset()
        self._cpuinfo = ""
        self._boot_time = 0

    def read(self) -> HostFacts:
        """Raises Unavailable when the host's files are not where they should be."""
        try:
            meminfo = parse_meminfo((self._host.proc / "meminfo").read_text())
            self._read_cpus()
        except (OSError, ValueError) as error:
            raise Unavailable(
                f"cannot read the host's own files: {error}",
                remedy="check node.host in the configuration",
            ) from error
        return HostFacts(meminfo, self._cpuinfo, self._cpus, self._boot_time, _CLOCK_TICKS)

    def _read_cpus(self) -> None:
        text = (self._host.cpu_devices / "online").read_text()
        if text == self._cpus_text:
            return
        cpus = parse_cpu_list(text)
        boot_time = _BOOT_TIME.search((self._host.proc / "stat").read_text())
        if cpus is None or boot_time is None:
            raise ValueError("no CPU is online, or there is no boot time")
        self._cpuinfo = (self._host.proc / "cpuinfo").read_text(errors="surrogateescape")
        self._cpus, self._boot_time, self._cpus_text = cpus, int(boot_time[1]), text


def parse_meminfo(text: str) -> dict[str, int]:
    """`Name:   number [kB]` lines, in order."""
    values: dict[str, int] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        values[name] = int(rest.split()[0])
    if "MemTotal" not in values:
        raise ValueError("meminfo has no MemTotal")
    return values


def read_limits(cgroup: Cgroup) -> Limits:
    """The limits that hold for this cgroup now."""
    return container_limits.limits(
        cgroup.memory.levels(),
        cgroup.cpu.levels(),
        cgroup.cpu.allowed(),
        swap_with_memory=cgroup.memory.swap_with_memory,
    )


def read_memory(cgroup: Cgroup, host: HostFacts) -> MemoryFacts | None:
    """None: the cgroup is gone, or nothing counts its memory."""
    memory = cgroup.memory
    used = memory.used()
    if used is None:
        return None
    if not host.meminfo.get("SwapTotal"):  # nothing can be swapped, so nobody need ask
        return MemoryFacts(used, memory.stat(), memory.headroom())
    return MemoryFacts(
        used, memory.stat(), memory.headroom(), memory.swap_used(), memory.swappiness()
    )


def read_account(
    cgroup: Cgroup,
    account: CpuAccount | None,
    *,
    limits: Limits,
    host: HostFacts,
    started: float,
    now: float,
) -> CpuAccount | None:
    """Account for CPU time up to `now`; `started` and `now` in seconds since boot. None: it is
    gone."""
    times = cgroup.cpu.times()
    if times is None:
        return None
    capacity, count = limits.capacity(host.cpus), limits.cpu_count(host.cpus)
    if account is None:
        age_s = max(0.0, now - started)
        return stat.begin(times, capacity=capacity, count=count, age_s=age_s, now=now)
    return stat.advance(account, times, capacity=capacity, count=count, now=now)
