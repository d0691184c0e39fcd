# SPDX-License-Identifier: Apache-2.0
"""What a container sees, next to the host's value, and which cgroup sets each limit. Reads only."""

from __future__ import annotations

from collections.abc import Sequence

from agents import tables
from agents.cgroup_formats import parse_cpu_list
from agents.cgroups import LinuxCgroups
from agents.config import NodeConfig
from agents.containers import Container
from agents.cri import CriContainers
from agents.errors import AgentError, Unavailable
from agents.hostfs import PROC, SYS, HostFs
from agents.tables import Table
from lxcfs_helper import reading
from lxcfs_helper.container_limits import Limits
from lxcfs_helper.eject import ours
from lxcfs_helper.files import source_name, views_directory
from lxcfs_helper.views import VIEWS

_NO_LIMIT = ("no limit", tables.UNKNOWN)


def list_containers(node: NodeConfig) -> str:
    """Every running container, and which of its targets show a file of ours."""
    rows = [
        [f"{one.pod.namespace}/{one.pod.name}", one.name, tables.text(one.pid), _shown(node, one)]
        for one in _containers(node)
    ]
    return "\n".join(tables.lines([Table("Views", ("pod", "container", "pid", "shown"), rows)]))


def show(node: NodeConfig, who: str) -> str:
    """One process, or every container of one pod."""
    host = node.host.host_fs()
    if who.isdigit():
        return "\n".join(tables.lines(_explain(host, int(who), f"process {who}")))
    found = [one for one in _containers(node) if _meant(one, who) and one.pid is not None]
    if not found:
        raise AgentError(
            f"no running container belongs to a pod {who!r}",
            remedy="list them with: nodeshare view ls",
        )
    pages = [
        _explain(host, one.pid, f"{one.pod.namespace}/{one.pod.name} {one.name} (pid {one.pid})")
        for one in found
        if one.pid is not None
    ]
    return "\n".join(tables.lines([table for page in pages for table in page]))


def _containers(node: NodeConfig) -> tuple[Container, ...]:
    runtime = CriContainers(node.cri_socket)
    try:
        return tuple(sorted(runtime.list(), key=lambda one: (one.pod.namespace, one.pod.name)))
    finally:
        runtime.close()


def _meant(container: Container, who: str) -> bool:
    pod = container.pod
    return who in (pod.name, pod.uid, f"{pod.namespace}/{pod.name}")


def _shown(node: NodeConfig, container: Container) -> str:
    if container.pid is None:
        return tables.UNKNOWN
    host = node.host.host_fs()
    source = source_name(views_directory(node.run_dir))
    mounted = {entry.mount_point for entry in ours(host, container.pid, source)}
    names = [
        name.value for name, view in VIEWS.items() if {str(t) for t in view.targets} <= mounted
    ]
    return ", ".join(names) or "nothing: the host's own files"


def _explain(host: HostFs, pid: int, title: str) -> Sequence[Table]:
    root = host.of_pid(pid, "root")
    inside = HostFs(proc=root / PROC.relative_to("/"), sys=root / SYS.relative_to("/"))
    cgroups = LinuxCgroups(host)
    try:
        theirs = _seen(inside)
        cgroup = cgroups.open(cgroups.paths(pid))
    except (OSError, ValueError) as error:
        raise Unavailable(f"cannot look into process {pid}: {error}") from error
    limits = reading.read_limits(cgroup)
    cgroup.close()
    own = _seen(host)
    rows = [[what, theirs[what], own[what]] for what in own]
    return (
        Table(title, ("WHAT", "CONTAINER SEES", "HOST"), rows),
        Table("limits", ("WHAT", "VALUE", "SET BY"), _limits(limits)),
    )


def _limits(limits: Limits) -> list[list[str]]:
    memory, quota = limits.memory, limits.quota
    cpus = tables.UNKNOWN if limits.allowed is None else str(len(limits.allowed))
    return [
        ["memory", *(_NO_LIMIT if memory is None else (_mebibytes(memory.value), memory.path))],
        ["CPU quota", *(_NO_LIMIT if quota is None else (f"{quota.value:g}", quota.path))],
        ["CPUs allowed", cpus, "cpuset"],
    ]


def _seen(at: HostFs) -> dict[str, str]:
    """What programs decide by, read where they read it."""
    meminfo = reading.parse_meminfo((at.proc / "meminfo").read_text())
    cpuinfo = (at.proc / "cpuinfo").read_text(errors="replace").splitlines()
    lines = (at.proc / "stat").read_text().splitlines()
    online = parse_cpu_list((at.cpu_devices / "online").read_text())
    names = ("MemTotal", "MemFree", "MemAvailable", "SwapTotal")
    return {
        **{name: _mebibytes(meminfo.get(name, 0) * 1024) for name in names},
        "CPUs online": str(len(online or ())),
        "processors in cpuinfo": str(sum(line.startswith("processor") for line in cpuinfo)),
        "CPUs in stat": str(sum(line.startswith("cpu") for line in lines) - 1),
    }


def _mebibytes(value: int) -> str:
    return f"{value / (1 << 20):.0f} MiB"
