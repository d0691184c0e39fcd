# SPDX-License-Identifier: Apache-2.0
"""The views: for each what it is rendered by, where a container has it, and when it differs from
the host's. Pure. A new view is one more module here and one more row in `VIEWS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agents.hostfs import PROC, SYS
from lxcfs_helper.config import ViewName
from lxcfs_helper.container_limits import Limits
from lxcfs_helper.facts import ContainerFacts, HostFacts
from lxcfs_helper.views import cpu, cpuinfo, meminfo, stat


@dataclass(frozen=True, slots=True)
class View:
    """`file` is its name in the container's directory, `targets` are where the container reads it.

    `applies` says whether a container with these limits is shown it: without limits the host's own
    file is the truth. A `dynamic` view changes with use, the others with limits alone.
    """

    file: str
    targets: tuple[Path, ...]
    render: Callable[[HostFacts, ContainerFacts], bytes]
    applies: Callable[[Limits, HostFacts], bool]
    dynamic: bool


def _limits_memory(limits: Limits, host: HostFacts) -> bool:
    return limits.limits_memory(host.memory_bytes)


def _limits_cpu(limits: Limits, host: HostFacts) -> bool:
    return limits.limits_cpu(host.cpus)


_CPU_DIRECTORY = SYS / "devices/system/cpu"

VIEWS: Mapping[ViewName, View] = {
    ViewName.MEMINFO: View(
        "meminfo", (PROC / "meminfo",), meminfo.render, _limits_memory, dynamic=True
    ),
    ViewName.CPUINFO: View(
        "cpuinfo", (PROC / "cpuinfo",), cpuinfo.render, _limits_cpu, dynamic=False
    ),
    ViewName.STAT: View("stat", (PROC / "stat",), stat.render, _limits_cpu, dynamic=True),
    ViewName.CPU: View(
        "cpu",
        tuple(_CPU_DIRECTORY / name for name in ("online", "possible", "present")),
        cpu.render,
        _limits_cpu,
        dynamic=False,
    ),
}
