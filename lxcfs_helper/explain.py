# SPDX-License-Identifier: Apache-2.0
"""What a container sees, next to the host's value, and where each number comes from. Reads only."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from agents import mountinfo, processes
from agents.cgroup_formats import CgroupPaths, up
from agents.cgroups import LinuxCgroups
from agents.config import NodeConfig
from agents.errors import Unavailable
from agents.hostfs import PROC, SYS, HostFs
from agents.overview import look
from lxcfs_helper.affinity import explain as affinity_explain
from lxcfs_helper.asked import asked
from lxcfs_helper.config import ViewName
from lxcfs_helper.eject import ours
from lxcfs_helper.facts import ContainerFacts, HostFacts
from lxcfs_helper.files import source_name, views_directory
from lxcfs_helper.host_reading import HostReader
from lxcfs_helper.reading import ContainerReader
from lxcfs_helper.sources import EVERYTHING
from lxcfs_helper.views import VIEWS, Told, View


@dataclass(frozen=True, slots=True)
class Shown:
    """How one view stands in one container: in a word or two, why, and its numbers."""

    state: str
    why: str
    told: tuple[Told, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """One container. `levels` are its cgroup and all above it, the container's own first. `calls`
    are system calls."""

    title: str
    pid: int
    levels: tuple[str, ...]
    host: HostFacts
    facts: ContainerFacts
    views: Mapping[ViewName, Shown]
    calls: Shown = Shown("the kernel's", "")


def attached(node: NodeConfig, pid: int) -> frozenset[ViewName]:
    """The views that a process is shown, by its mount table."""
    source = source_name(views_directory(node.run_dir))
    mounted = {entry.mount_point for entry in ours(node.host.host_fs(), pid, source)}
    return frozenset(
        name
        for name, view in VIEWS.items()
        if any(str(target) in mounted for target in view.targets)
    )


def explain(node: NodeConfig, who: str) -> tuple[Explanation, ...]:
    """One process, or every container of one pod. Raises AgentError when there is none."""
    return tuple(_explained(node, one.title, one.pid, one.paths) for one in asked(node, who))


def _explained(node: NodeConfig, title: str, pid: int, paths: CgroupPaths) -> Explanation:
    fs = node.host.host_fs()
    inside = _inside(fs, pid)
    try:
        host = HostReader(fs).read_for_people()
        facts = _read(fs, pid, paths, host, inside)
    except (OSError, ValueError) as error:
        raise Unavailable(f"cannot look into process {pid}: {error}") from error
    shown = attached(node, pid)
    views = {
        name: _shown(view, host, facts, is_attached=name in shown) for name, view in VIEWS.items()
    }
    mine = paths.controllers.get("memory", paths.unified) or "/"
    calls = _calls(node, paths, host, facts)
    return Explanation(title, pid, up(mine), host, facts, views, calls)


def _calls(node: NodeConfig, paths: CgroupPaths, host: HostFacts, facts: ContainerFacts) -> Shown:
    """Only the agent knows whose calls come to it."""
    from lxcfs_helper.agent import AGENT  # it imports us

    (agent,) = look([AGENT], node.run_dir)
    affinity = None if agent.document is None else agent.document.get("affinity", {})
    container_id = affinity_explain.answered_as(affinity or {}, paths)
    if container_id is None:
        return Shown("the kernel's", affinity_explain.why_not(affinity))
    return Shown("answered", "", affinity_explain.told(container_id, host, facts))


def _inside(fs: HostFs, pid: int) -> HostFs:
    root = fs.of_pid(pid, "root")
    return HostFs(proc=root / PROC.relative_to("/"), sys=root / SYS.relative_to("/"))


def _read(
    fs: HostFs, pid: int, paths: CgroupPaths, host: HostFacts, inside: HostFs
) -> ContainerFacts:
    """As the agent reads it; what is accounted goes on from what the container sees."""
    key = processes.identify(fs.proc, pid)
    if key is None:
        raise Unavailable(f"process {pid} is gone")
    reader = ContainerReader(
        LinuxCgroups(fs).open(paths), fs.proc, key.start_ticks / host.ticks_per_second
    )
    now = time.clock_gettime(time.CLOCK_BOOTTIME)

    def seen(name: str) -> bytes | None:
        theirs = mountinfo.at(mountinfo.read(fs.proc, pid), PROC / name)
        return (inside.proc / name).read_bytes() if theirs else None

    try:
        if reader.read(int(EVERYTHING), host, now) is None:
            raise Unavailable(f"nothing counts memory and CPU time of process {pid}")
        reader.resume(seen, host.ticks_per_second)
        assert reader.facts is not None
        return reader.facts
    finally:
        reader.close()


def _shown(view: View, host: HostFacts, facts: ContainerFacts, *, is_attached: bool) -> Shown:
    if not any(target in host.offers for target in view.targets):
        return Shown("absent", "this kernel has no such file")
    if not view.applies(facts.limits, host):
        return Shown("host", "no limit makes it differ: it sees the host's own file")
    told = tuple(_native(view, one, facts) for one in view.explain(host, facts))
    if not is_attached:
        return Shown("not attached", "it sees the host's own file; this is what it would see", told)
    return Shown("attached", "", told)


def _native(view: View, told: Told, facts: ContainerFacts) -> Told:
    """The first line of a file that is attached itself."""
    if view is not VIEWS[ViewName.PRESSURE] or told.what not in facts.pressure:
        return told
    try:
        text = facts.pressure[told.what].path.read_text()
    except OSError:
        return told
    return replace(told, value=text.partition("\n")[0])
