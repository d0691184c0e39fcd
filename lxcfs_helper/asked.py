# SPDX-License-Identifier: Apache-2.0
"""Whom a person means by PID|POD on the command line. Reads only; knows nothing of views."""

from __future__ import annotations

from dataclasses import dataclass

from agents.cgroup_formats import CgroupPaths
from agents.cgroups import LinuxCgroups
from agents.config import NodeConfig
from agents.containers import Container
from agents.cri import CriContainers
from agents.errors import AgentError, Unavailable
from agents.hostfs import HostFs
from lxcfs_helper.selection import own_cgroup


@dataclass(frozen=True, slots=True)
class Asked:
    """One container: in words, its process, its cgroup, and its name in the pod (None: the runtime
    knows no such container)."""

    title: str
    pid: int
    paths: CgroupPaths
    container: str | None = None


def containers(node: NodeConfig) -> tuple[Container, ...]:
    """Everybody who runs, by namespace and pod. Raises Unavailable."""
    runtime = CriContainers(node.cri_socket)
    try:
        return tuple(sorted(runtime.list(), key=lambda one: (one.pod.namespace, one.pod.name)))
    finally:
        runtime.close()


def asked(node: NodeConfig, who: str) -> tuple[Asked, ...]:
    """One process, or every container of one pod. Raises AgentError when there is none."""
    if who.isdigit():
        return (_of_process(node, int(who)),)
    found = [one for one in containers(node) if _meant(one, who) and one.pid is not None]
    if not found:
        raise AgentError(
            f"no running container belongs to a pod {who!r}",
            remedy="list them with: nodeshare view ls",
        )
    return tuple(_of_container(node, one) for one in found)


def _meant(container: Container, who: str) -> bool:
    pod = container.pod
    return who in (pod.name, pod.uid, f"{pod.namespace}/{pod.name}")


def _of_process(node: NodeConfig, pid: int) -> Asked:
    """As its container, where the runtime answers and knows one; else by its own cgroup."""
    paths = cgroup_of(node.host.host_fs(), pid)
    try:
        running = containers(node)
    except Unavailable:
        running = ()
    home = [one for one in running if any(one.id in path for path in paths.all())]
    if not home:
        return Asked(f"process {pid}", pid, paths)
    title = f"{_name(home[0])}, process {pid}"
    return Asked(title, pid, own_cgroup(paths, home[0]), home[0].name)


def _of_container(node: NodeConfig, container: Container) -> Asked:
    assert container.pid is not None
    paths = own_cgroup(cgroup_of(node.host.host_fs(), container.pid), container)
    title = f"{_name(container)} (pid {container.pid})"
    return Asked(title, container.pid, paths, container.name)


def _name(container: Container) -> str:
    return f"{container.pod.namespace}/{container.pod.name} {container.name}"


def cgroup_of(host: HostFs, pid: int) -> CgroupPaths:
    """Where this process is. Raises AgentError."""
    try:
        return LinuxCgroups(host).paths(pid)
    except ProcessLookupError:
        raise AgentError(
            f"there is no process {pid}",
            remedy="take the pid that the host knows, not the one in the container",
        ) from None
    except (OSError, ValueError) as error:
        raise Unavailable(f"cannot look into process {pid}: {error}") from error
