# SPDX-License-Identifier: Apache-2.0
"""Which containers are shown views, and where such a container is: process and cgroup, surely its
own."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from agents import cgroup_formats, container_cgroups, processes
from agents.cgroup_formats import CgroupPaths
from agents.cgroups import Cgroups
from agents.containers import Container, Pod
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


class Exclusion(enum.Enum):
    """Why a container is shown nothing of ours; the values are those of a metric."""

    EXCLUDED_NAMESPACE = "exclude"
    NAMESPACE = "namespaces"
    LABELS = "pod_labels"
    POD = "pod"


def exclusion(inject: InjectConfig, pod: Pod) -> Exclusion | None:
    """None: its containers are to be shown views. What the operator excludes no pod takes in."""
    if _matches(pod.namespace, inject.exclude):
        return Exclusion.EXCLUDED_NAMESPACE
    match own_word(inject, pod):
        case "false":
            return Exclusion.POD
        case "true":
            return None
    if not _matches(pod.namespace, inject.namespaces):
        return Exclusion.NAMESPACE
    wanted = inject.pod_labels.items()
    if not all(fnmatchcase(pod.labels.get(key, ""), pattern) for key, pattern in wanted):
        return Exclusion.LABELS
    return None


def own_word(inject: InjectConfig, pod: Pod) -> str | None:
    """What the pod says itself, in lower case: its annotation, else its label. None: nothing."""
    said = pod.annotations.get(inject.annotation, pod.labels.get(inject.annotation))
    return None if said is None else said.strip().lower()


def misunderstood(inject: InjectConfig, pod: Pod) -> str | None:
    """What is wrong with what a pod says; None: nothing. It then counts as not said."""
    said = own_word(inject, pod)
    if said in (None, "true", "false"):
        return None
    return f'{inject.annotation} is {said!r}; write "true" or "false"'


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


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


def names_container(cgroup: str) -> bool:
    """Whether this may be the cgroup of a container (or of a pod's sandbox)."""
    return container_cgroups.container_id(cgroup.rpartition("/")[2]) is not None


def belongs(paths: CgroupPaths, container: Container) -> bool:
    """Whether a process in these cgroups is the container's: runtimes name the cgroup by its id."""
    return any(container.id in path for path in paths.all())


def own_cgroup(paths: CgroupPaths, container: Container) -> CgroupPaths:
    """The container's own, of a process that may have moved below it."""
    return cgroup_formats.of_container(paths, container.id)
