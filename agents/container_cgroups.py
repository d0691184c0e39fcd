# SPDX-License-Identifier: Apache-2.0
"""Which container a process is in, told by the text of `/proc/<pid>/cgroup` alone. Pure; knows no
procfs, runtime or kubelet.

Runtimes name a container's cgroup by its id of 64 hexadecimal digits, the kubelet that of a pod by
its uid. An unprivileged process leaves neither, but may make cgroups of any name below its own: so
the *outermost* name counts, of those below the node (`node_root`). The forms, and who writes them:

    /kubepods/burstable/pod<uid>/<id>                             cgroupfs (containerd, dockershim)
    /kubepods/besteffort/pod<uid>/crio-<id>/container             cgroupfs (CRI-O with crun)
    …/kubepods-besteffort-pod<uid, _ for ->.slice/cri-containerd-<id>.scope   systemd (also crio-,
                                                                  docker-, libpod-, or no prefix)
    …/kubepods-besteffort-pod<uid, _ for ->.slice:cri-containerd:<id>         kubelet for systemd,
                                                                  containerd for cgroupfs
    /docker/<id>, /system.slice/docker-<id>.scope, /machine.slice/libpod-<id>.scope   without pods
    /../../pod<uid>/<id>                                          read in a cgroup namespace below
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass

from agents.cgroup_formats import CgroupPaths, parse_paths

_HEX = "[0-9a-f]"
#: The API server's form (with `_` for `-` in systemd's names); of static pods 32 digits, a hash.
_UID = rf"{_HEX}{{8}}(?:[-_]{_HEX}{{4}}){{3}}[-_]{_HEX}{{12}}|{_HEX}{{32}}"
_POD = re.compile(rf"(?:.*-)?pod({_UID})(?:\.slice)?")
_CONTAINER = re.compile(rf"(?:(?P<runtime>.*)[-:])?(?P<id>{_HEX}{{64}})(?:\.scope)?")
#: CRI-O's and podman's monitor of a container is in the pod's cgroup, and not in the container.
_MONITOR = "conmon"
#: Below it podman puts its own pods, named like containers (cgroupfs).
_PODMAN_PODS = "libpod_parent"


@dataclass(frozen=True, slots=True, order=True)
class ContainerCgroup:
    """A container's own cgroup. `pod_uid` as the API server writes it; None: it is in no pod.

    `path` is the one that `/proc/<pid>/cgroup` tells, so for a reader in a cgroup namespace of its
    own it begins with `/..`.
    """

    pod_uid: str | None
    container_id: str
    path: str


class Outside(enum.Enum):
    """Where a process is that is in no container. `UNKNOWN`: in the cgroup of a pod, and no
    container's (a sandbox of Kata or gVisor, or something else that we do not know).
    """

    HOST = "host"
    UNKNOWN = "unknown"


Place = ContainerCgroup | Outside


def find(text: str, node_root: str = "/") -> Place:
    """Where a process is, by the text of its `/proc/<pid>/cgroup`."""
    return place(parse_paths(text), node_root)


def place(paths: CgroupPaths, node_root: str = "/") -> Place:
    """The same of paths that were parsed already. With v1 the memory controller's word counts
    before the others': beside it the place in cgroup2 may be a systemd unit's.
    """
    found: Place = Outside.HOST
    for path in _in_order(paths):
        here = _outermost(path, node_root)
        if isinstance(here, ContainerCgroup):
            return here
        found = here if here is Outside.UNKNOWN else found
    return found


def node_root(text: str) -> str:
    """The cgroup of the whole node, by the text of the agent's own `/proc/self/cgroup`: `/`, unless
    the node is a container itself (kind, k3d). An agent in a pod of such a node is in a container
    in a container; one that runs there without a pod is in the node alone.
    """
    for path in _in_order(parse_paths(text)):
        chain = [each for each in _chain(path, "/") if isinstance(each, ContainerCgroup)]
        if chain and chain[-1].pod_uid is not None:
            chain.pop()
        if chain:
            return chain[-1].path
    return "/"


def container_id(name: str) -> str | None:
    """The id of the container whose cgroup has this name (the last component of its path); None: no
    container's, or that of its monitor.
    """
    match = _CONTAINER.fullmatch(name)
    return None if match is None or _is_monitor(match) else match["id"]


def _is_monitor(match: re.Match[str]) -> bool:
    return _MONITOR in (match["runtime"] or "").split("-")


def _in_order(paths: CgroupPaths) -> Iterator[str]:
    controllers = dict(paths.controllers)
    if "memory" in controllers:
        yield controllers.pop("memory")
    if paths.unified is not None:
        yield paths.unified
    yield from dict.fromkeys(path for _, path in sorted(controllers.items()))


def _outermost(path: str, below: str) -> Place:
    return next(_chain(path, below), Outside.HOST)


def _chain(path: str, below: str) -> Iterator[Place]:
    """The containers on the way to a cgroup, the outermost first; UNKNOWN where a pod's cgroup is
    the last thing that is known, HOST where a monitor is.
    """
    prefix = below.rstrip("/")
    start = len(prefix) if path == prefix or path.startswith(f"{prefix}/") else 0
    pod: str | None = None
    parts = path[start:].split("/")
    at = start - 1
    for number, part in enumerate(parts):
        at += 1 + len(part)
        head, colon, _ = part.partition(":")
        if match := _POD.fullmatch(head):
            pod = match[1].replace("_", "-")
            if not colon:
                continue
        match = _CONTAINER.fullmatch(part)
        if match is None or (number and parts[number - 1] == _PODMAN_PODS and _is_pod(parts)):
            continue
        if _is_monitor(match):
            yield Outside.HOST
            return
        yield ContainerCgroup(pod, match["id"], path[:at])
        pod = None
    if pod is not None:
        yield Outside.UNKNOWN


def _is_pod(parts: list[str]) -> bool:
    """Whether what lies below `libpod_parent` is a pod: then the container comes next."""
    after = parts[parts.index(_PODMAN_PODS) + 2 :]
    return bool(after) and after[0].startswith("libpod-")
