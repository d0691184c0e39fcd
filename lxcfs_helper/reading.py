# SPDX-License-Identifier: Apache-2.0
"""Read one container's cgroup into the values that views are rendered from.

Reads only the sources that are asked for, and keeps what is accounted from one reading to the next
(CPU time, load). Decides nothing: what a reading means is in `container_limits` and the views.
Knows no container runtime: any cgroup will do, a caller's of the compatible root as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from agents.cgroups import Cgroup
from lxcfs_helper import container_limits
from lxcfs_helper.container_limits import Limits
from lxcfs_helper.facts import ContainerFacts, CpuAccount, HostFacts, MemoryFacts, NativeFile
from lxcfs_helper.load import LoadReader
from lxcfs_helper.sources import Source
from lxcfs_helper.views import loadavg, pressure, stat

# As plain numbers: the operators of enumerations cost more than reading a file.
_LIMITS, _MEMORY, _CPU = int(Source.LIMITS), int(Source.MEMORY), int(Source.CPU | Source.TIME)
_IO, _LOAD = int(Source.IO), int(Source.LOAD)


class ContainerReader:
    """One cgroup, which stays open until `close`. For one thread.

    `proc` is the host's; `started_s` is since when the container runs, in seconds since boot.
    """

    def __init__(self, cgroup: Cgroup, proc: Path, started_s: float) -> None:
        self._cgroup = cgroup
        self._started_s = started_s
        self._load = LoadReader(cgroup, proc)
        #: As read last.
        self.facts: ContainerFacts | None = None

    def read(self, sources: int, host: HostFacts, now: float) -> ContainerFacts | None:
        """The container with these sources (as a number) as they are at `now`, in seconds since
        boot; what is not asked for is as it was read last, or has its default. None: the cgroup is
        gone, or nothing counts what is asked for."""
        known = self.facts
        if known is None:
            known = ContainerFacts(Limits(), pressure=read_pressure(self._cgroup))
            sources = sources | _LIMITS
        limits = read_limits(self._cgroup) if sources & _LIMITS else known.limits
        memory = read_memory(self._cgroup, host) if sources & _MEMORY else known.memory
        account = self._account(limits, host, now) if sources & _CPU else known.account
        if memory is None or account is None:
            return None
        self.facts = ContainerFacts(
            limits,
            memory,
            account,
            self._cgroup.io.devices() if sources & _IO else known.io,
            self._load.read(known.load, now) if sources & _LOAD else known.load,
            max(0.0, now - self._started_s),
            known.pressure,
        )
        return self.facts

    def resume(self, shown: Callable[[str], bytes | None], ticks_per_second: int) -> None:
        """Go on from what the files of an earlier reader say, asked for by their name; to be called
        once, after the first reading."""
        facts = self.facts
        if facts is None:
            return
        text, averages = shown("stat"), shown("loadavg")
        account, load = facts.account, facts.load
        if text is not None:
            account = stat.resume(account, text, ticks_per_second)
        if averages is not None:
            load = loadavg.resume(load, averages)
        self.facts = replace(facts, account=account, load=load)

    def close(self) -> None:
        self._cgroup.close()

    def _account(self, limits: Limits, host: HostFacts, now: float) -> CpuAccount | None:
        known = None if self.facts is None or not self.facts.account.at else self.facts.account
        return read_account(
            self._cgroup, known, limits=limits, host=host, started=self._started_s, now=now
        )


def read_limits(cgroup: Cgroup) -> Limits:
    """The limits that hold for this cgroup now."""
    return container_limits.limits(
        cgroup.memory.levels(),
        cgroup.cpu.levels(),
        cgroup.cpu.allowed(),
        swap_with_memory=cgroup.memory.swap_with_memory,
    )


def read_memory_limits(cgroup: Cgroup) -> Limits:
    """Those of memory and swap; the others are not set, whether or not they are."""
    levels = cgroup.memory.levels()
    return container_limits.limits(
        levels, (), None, swap_with_memory=cgroup.memory.swap_with_memory
    )


def read_memory(cgroup: Cgroup, host: HostFacts) -> MemoryFacts | None:
    """None: the cgroup is gone, or nothing counts its memory."""
    memory = cgroup.memory
    used = memory.used()
    if used is None:
        return None
    swaps, huge = host.meminfo.get("SwapTotal"), host.meminfo.get("HugePages_Total")
    # What the host has not got nobody need ask for.
    return MemoryFacts(
        used,
        memory.stat(),
        memory.headroom(),
        memory.swap_used() if swaps else None,
        memory.swappiness() if swaps else None,
        cgroup.huge_pages(host.meminfo.get("Hugepagesize", 0)) if huge else None,
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


def read_pressure(cgroup: Cgroup) -> dict[str, NativeFile]:
    """Those of the container's own that can be read: where accounting is off they exist, too."""
    found = {}
    for name in pressure.NAMES:
        file = cgroup.own_v2(f"{name}.pressure")
        try:
            if file is not None:
                file.path.read_bytes()
                device = file.path.stat().st_dev
                numbers = os.major(device), os.minor(device)
                found[name] = NativeFile(file.path, numbers, file.root)
        except OSError:
            continue
    return found
