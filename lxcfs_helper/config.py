# SPDX-License-Identifier: Apache-2.0
"""The section `lxcfs_helper`: which files containers see, which containers, how fresh."""

from __future__ import annotations

import enum
from typing import Annotated

from pydantic import AfterValidator

from agents.config import Duration, Section


class ViewName(enum.Enum):
    """What can be shown. `cpu` is /sys/devices/system/cpu/{online,possible,present}, together."""

    MEMINFO = "meminfo"
    CPUINFO = "cpuinfo"
    STAT = "stat"
    CPU = "cpu"


def _each_once(names: tuple[ViewName, ...]) -> tuple[ViewName, ...]:
    twice = sorted({name.value for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is written twice; keep one")
    return names


def _a_glob(patterns: tuple[str, ...]) -> tuple[str, ...]:
    if any(not pattern.strip() for pattern in patterns):
        raise ValueError("'' matches no namespace; write a name or a pattern such as 'jupyter*'")
    return patterns


def _heartbeat(seconds: float) -> float:
    if not 0.05 <= seconds <= 5:
        raise ValueError(f"{seconds:g} s is out of range; write 50ms to 5s, such as 1s")
    return seconds


Globs = Annotated[tuple[str, ...], AfterValidator(_a_glob)]


class InjectConfig(Section):
    """Which containers, by their pod's namespace: one pattern must match, none may exclude it."""

    namespaces: Globs = ("*",)
    exclude: Globs = ("kube-system",)


class ViewConfig(Section):
    """Everything about the resource view."""

    files: Annotated[tuple[ViewName, ...], AfterValidator(_each_once)] = tuple(ViewName)
    inject: InjectConfig = InjectConfig()
    #: How often changed containers get fresh values. Unchanged ones are looked at, not rendered.
    heartbeat: Annotated[Duration, AfterValidator(_heartbeat)] = 1.0
    #: How often the container runtime is asked who runs.
    poll: Annotated[Duration, AfterValidator(_heartbeat)] = 1.0
