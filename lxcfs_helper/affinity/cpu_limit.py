# SPDX-License-Identifier: Apache-2.0
"""How many CPUs a process, a pod's container or the caller itself may use. Reads only; knows
nothing of environment variables or seccomp.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from agents import cgroup_formats as formats
from agents.cgroup_formats import CgroupPaths
from agents.cgroups import LinuxCgroups
from agents.config import NodeConfig
from agents.errors import AgentError, Unavailable
from agents.hostfs import HostFs
from lxcfs_helper.asked import asked, cgroup_of
from lxcfs_helper.container_limits import Limits
from lxcfs_helper.reading import read_limits


def cpus_of(node: NodeConfig, who: str, container: str | None) -> float:
    """CPUs of a process, or of a pod's container. Raises AgentError, also when containers of the
    pod differ and none is named."""
    found = asked(node, who)
    if container is not None:
        found = tuple(one for one in found if one.container == container)
        if not found:
            raise AgentError(
                f"no container {container!r} runs in {who!r}",
                remedy="list them with: nodeshare view ls",
            )
    fs = node.host.host_fs()
    counts = [_limits(fs, one.paths).capacity(_host_cpus(fs)) for one in found]
    if len(set(counts)) > 1:
        each = ", ".join(
            f"{one.container} {cpus:g}" for one, cpus in zip(found, counts, strict=True)
        )
        raise AgentError(
            f"the containers of {who!r} differ in CPUs: {each}", remedy="add --container NAME"
        )
    return counts[0]


def own_cpus(node: NodeConfig) -> float:
    """CPUs of the caller, also in a container, where the root of the cgroup file system that it
    sees may be its own cgroup. Raises Unavailable."""
    fs = node.host.host_fs()
    allowed = frozenset(os.sched_getaffinity(0))
    quotas = list(_quotas_at_root(fs.cgroup))
    try:
        limits = _limits(fs, cgroup_of(fs, os.getpid()))
    except AgentError:
        if not quotas:
            raise
    else:
        quotas += [] if limits.quota is None else [limits.quota.value]
        allowed = limits.cpus(allowed)
    return min([float(len(allowed)), *quotas])


def _limits(fs: HostFs, paths: CgroupPaths) -> Limits:
    cgroup = LinuxCgroups(fs).open(paths)
    try:
        return read_limits(cgroup)
    finally:
        cgroup.close()


def _host_cpus(fs: HostFs) -> frozenset[int]:
    try:
        cpus = formats.parse_cpu_list((fs.cpu_devices / "online").read_text())
    except (OSError, ValueError) as error:
        raise Unavailable(f"cannot tell the CPUs of this host: {error}") from error
    if cpus is None:
        raise Unavailable("no CPU is online")
    return cpus


def _quotas_at_root(cgroup: Path) -> Iterator[float]:
    """Set at the root alone in a cgroup namespace, or where a runtime mounted the container's own
    directories there: a root of the whole kernel has no quota."""
    for read in (_quota_v2, _quota_v1):
        try:
            quota = read(cgroup)
        except (OSError, ValueError):
            continue
        if quota is not None:
            yield quota


def _quota_v2(cgroup: Path) -> float | None:
    return formats.parse_cpu_max((cgroup / "cpu.max").read_text())


def _quota_v1(cgroup: Path) -> float | None:
    quota, period = (cgroup / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period"))
    return formats.cpu_quota_v1(quota.read_text(), period.read_text())
