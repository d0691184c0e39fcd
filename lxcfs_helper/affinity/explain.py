# SPDX-License-Identifier: Apache-2.0
"""What a container's calls are answered, and why, for people. Pure; answers nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents import tables
from agents.cgroup_formats import CgroupPaths, format_cpu_list
from lxcfs_helper.affinity.answers import chosen, first_cpu
from lxcfs_helper.facts import ContainerFacts, HostFacts
from lxcfs_helper.views import meminfo
from lxcfs_helper.views.view import Told


def answered_as(affinity: Mapping[str, Any], paths: CgroupPaths) -> str | None:
    """As which container the agent answers a process in these cgroups, by what it says of itself;
    None: it does not."""
    known: list[str] = affinity.get("answered", [])
    return next((one for one in known if any(one in path for path in paths.all())), None)


def why_not(affinity: Mapping[str, Any] | None) -> str:
    """Why the kernel answers; None: no agent runs."""
    if affinity is None:
        return "no agent runs that could answer"
    if not affinity.get("enabled"):
        return "lxcfs_helper.affinity is not enabled"
    problem = affinity.get("problem")
    return problem or "its pod names no seccomp profile of ours, or is left out"


def told(container_id: str, host: HostFacts, facts: ContainerFacts) -> tuple[Told, ...]:
    """Each number, as a process that was not pinned is told it."""
    limits, real = facts.limits, facts.limits.cpus(host.cpus)
    start = first_cpu(container_id, _bits(real))
    seen = chosen(_bits(real), limits.cpu_count(host.cpus), start)
    cpus = frozenset(cpu for cpu in real if seen >> cpu & 1)
    quota, memory = limits.quota, limits.memory
    total, free = meminfo.total_and_free(host, facts)
    return (
        Told(
            "sched_getaffinity",
            format_cpu_list(cpus),
            format_cpu_list(host.cpus),
            "cpuset" if quota is None else quota.path,
            "where it may run"
            if len(cpus) == len(real)
            else f"the quota rounded up, from CPU {start} on: its own, by its id",
        ),
        Told(
            "sysinfo",
            f"{tables.size(total)}, {tables.size(free)} free",
            tables.size(host.memory_bytes),
            "memory of the host" if memory is None else memory.path,
            "as meminfo, loadavg and swaps tell",
        ),
    )


def _bits(cpus: frozenset[int]) -> int:
    return sum(1 << cpu for cpu in cpus)
