# SPDX-License-Identifier: Apache-2.0
"""Which containers are shown views, and where such a container is: process and cgroup, surely its
own."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from agents import processes
from agents.cgroup_formats import CgroupPaths
from agents.cgroups import Cgroups
from agents.containers import Container
from agents.errors import Unavailable
from agents.hostfs import HostFs
from agents.processes import ProcessKey
from lxcfs_helper.config import InjectConfig


@dataclass(frozen=True, slots=True)
class Located:
    """A running container, its first process, and its cgroup."""

    container: Container
    process: ProcessKey
    cgroup: CgroupPaths


def selected(inject: InjectConfig, container: Container) -> bool:
    """Whether this container is to be shown views, by the namespace of its pod."""
    namespace = container.pod.namespace

    def matches(patterns: tuple[str, ...]) -> bool:
        return any(fnmatchcase(namespace, pattern) for pattern in patterns)

    return matches(inject.namespaces) and not matches(inject.exclude)


def locate(host: HostFs, cgroups: Cgroups, container: Container) -> Located:
    """Raises ProcessLookupError when it is gone, Unavailable when it cannot be told for sure."""
    if container.pid is None:
        raise Unavailable("the container runtime does not tell its pid")
    key = processes.identify(host.proc, container.pid)
    if key is None:
        raise ProcessLookupError
    paths = cgroups.paths(key.pid)
    if not belongs(paths, container):
        raise Unavailable(f"process {key.pid} is in no cgroup named after the container")
    return Located(container, key, own_cgroup(paths, container))


def belongs(paths: CgroupPaths, container: Container) -> bool:
    """Whether a process in these cgroups is the container's: runtimes name the cgroup by its id."""
    return any(container.id in path for path in paths.all())


def own_cgroup(paths: CgroupPaths, container: Container) -> CgroupPaths:
    """Cut off what the container made below its own cgroup, such as systemd's init.scope."""
    return CgroupPaths(
        None if paths.unified is None else _cut(paths.unified, container.id),
        {name: _cut(path, container.id) for name, path in paths.controllers.items()},
    )


def _cut(path: str, container_id: str) -> str:
    parts = path.split("/")
    own = [number for number, part in enumerate(parts) if container_id in part]
    return "/".join(parts[: own[0] + 1]) if own else path
