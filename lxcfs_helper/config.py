# SPDX-License-Identifier: Apache-2.0
"""The section `lxcfs_helper`: which files containers see, which containers, how fresh."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from agents.config import Duration, HostPath, Section, shown
from agents.hostfs import DEV, PROC, SYS
from lxcfs_helper.affinity.profiles_config import ProfilesConfig
from lxcfs_helper.view_name import ViewName as ViewName

#: Without uptime: process start times count from the boot of the host, so ps and top reckon wrongly
#: beside it.
_USUAL = tuple(name for name in ViewName if name is not ViewName.UPTIME)


def _each_once(names: tuple[ViewName, ...]) -> tuple[ViewName, ...]:
    twice = sorted({name.value for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is written twice; keep one")
    return names


_KERNELS_OWN = (PROC, SYS, DEV)

#: A glob's own characters besides those of what it matches.
_NAMESPACE = re.compile(r"[a-z0-9\-*?\[\]!]{1,253}")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9_.\-*?\[\]!]{0,253}")
#: Kubernetes' qualified name: an optional DNS prefix, and a name.
_QUALIFIED = re.compile(
    r"(?=[^/]{1,253}/)([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
    r"|[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)


def _namespaces(patterns: tuple[str, ...]) -> tuple[str, ...]:
    for pattern in patterns:
        if not _NAMESPACE.fullmatch(pattern):
            raise ValueError(
                f"{shown(pattern)} matches no namespace, whose name has a-z, 0-9 and '-' alone; "
                "write a name or a pattern such as 'jupyter*'"
            )
    return patterns


def _key(key: str) -> str:
    if not _QUALIFIED.fullmatch(key):
        raise ValueError(
            f"{shown(key)} is no key of a label or annotation; write one such as 'app' or "
            "'example.org/app'"
        )
    return key


def _labels(labels: dict[str, str]) -> dict[str, str]:
    for key, pattern in labels.items():
        _key(key)
        if not _LABEL_VALUE.fullmatch(pattern):
            raise ValueError(
                f"{key}: {shown(pattern)} matches no label value, which has letters, digits, '-', "
                "'_' and '.' alone; write a value or a pattern such as 'singleuser-*'"
            )
    return labels


def _heartbeat(seconds: float) -> float:
    if not 0.05 <= seconds <= 5:
        raise ValueError(f"{seconds:g} s is out of range; write 50ms to 5s, such as 1s")
    return seconds


def _poll(seconds: float) -> float:
    if not 0.05 <= seconds <= 60:
        raise ValueError(f"{seconds:g} s is out of range; write 50ms to 60s, such as 10s")
    return seconds


def _hold(seconds: float) -> float:
    if not 0.05 <= seconds <= 5:
        raise ValueError(f"{seconds:g} s is out of range; write 50ms to 5s, such as 2s")
    return seconds


def _root(path: Path | None) -> Path | None:
    if path is not None and (path.parent == path or any(map(path.is_relative_to, _KERNELS_OWN))):
        raise ValueError(f"{str(path)!r} is in use by all; write a directory that is only for this")
    return path


Namespaces = Annotated[tuple[str, ...], AfterValidator(_namespaces)]


class InjectConfig(Section):
    """Which containers are shown views: by their pod's namespace (one of `namespaces` must match,
    none of `exclude` may), by its labels (all of `pod_labels` must match), and as the pod itself
    says.
    """

    namespaces: Namespaces = ("*",)
    exclude: Namespaces = ("kube-system",)
    pod_labels: Annotated[dict[str, str], AfterValidator(_labels)] = Field(default_factory=dict)
    #: What a pod says itself, in an annotation (or label) of this name: "false" leaves it out,
    #: "true" takes it in whatever `namespaces` and `pod_labels` say.
    annotation: Annotated[str, AfterValidator(_key)] = "nodeshare/view"


class AffinityConfig(Section):
    """Answering system calls of containers whose seccomp profile asks for it."""

    enabled: bool = False
    #: For how long a program is held at most that is to be started while views are missing.
    hold: Annotated[Duration, AfterValidator(_hold)] = 2.0
    profiles: ProfilesConfig = ProfilesConfig()


class ViewConfig(Section):
    """Everything about the resource view."""

    files: Annotated[tuple[ViewName, ...], AfterValidator(_each_once)] = _USUAL
    inject: InjectConfig = InjectConfig()
    #: How old the values may get that somebody reads. Where nobody reads they may get 5 s old.
    heartbeat: Annotated[Duration, AfterValidator(_heartbeat)] = 1.0
    #: How often the container runtime is asked who runs, besides whenever something tells that a
    #: container came or went.
    poll: Annotated[Duration, AfterValidator(_poll)] = 10.0
    #: Where to serve the tree that lxcfs has, for pod specs that mount files of it; None: nowhere,
    #: because lxcfs itself may be there.
    compat_root: Annotated[HostPath | None, AfterValidator(_root)] = None
    affinity: AffinityConfig = AffinityConfig()
