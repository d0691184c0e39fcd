# SPDX-License-Identifier: Apache-2.0
"""The views: for each what it is rendered from, where a container has it, and when it differs from
the host's. Pure. A new view is one more module here and one more row in `VIEWS`.
"""

from __future__ import annotations

from collections.abc import Mapping

from agents.hostfs import PROC, SYS
from lxcfs_helper.container_limits import Limits
from lxcfs_helper.facts import HostFacts
from lxcfs_helper.sources import Source
from lxcfs_helper.view_name import ViewName
from lxcfs_helper.views import (
    cpu,
    cpuinfo,
    diskstats,
    loadavg,
    meminfo,
    meminfo_told,
    pressure,
    stat,
    swaps,
    uptime,
)
from lxcfs_helper.views.view import FileView, Told, Tree, TreeView, View

__all__ = ["TARGETS", "VIEWS", "FileView", "Told", "Tree", "TreeView", "View", "limits_any"]


def _limits_memory(limits: Limits, host: HostFacts) -> bool:
    return limits.limits_memory(host.memory_bytes)


def _limits_cpu(limits: Limits, host: HostFacts) -> bool:
    return limits.limits_cpu(host.cpus)


def limits_any(limits: Limits, host: HostFacts) -> bool:
    """Whether a container with these limits may use less than the host has."""
    return _limits_memory(limits, host) or _limits_cpu(limits, host)


VIEWS: Mapping[ViewName, View] = {
    ViewName.MEMINFO: View(
        (FileView("meminfo", PROC / "meminfo", meminfo.render),),
        Source.LIMITS | Source.MEMORY | Source.HOST,
        _limits_memory,
        meminfo_told.unknown,
        meminfo_told.explain,
    ),
    ViewName.CPUINFO: View(
        (FileView("cpuinfo", PROC / "cpuinfo", cpuinfo.render),),
        Source.LIMITS,
        _limits_cpu,
        cpuinfo.unknown,
        cpuinfo.explain,
    ),
    ViewName.STAT: View(
        (FileView("stat", PROC / "stat", stat.render),),
        Source.LIMITS | Source.CPU | Source.LOAD | Source.TIME,
        _limits_cpu,
        stat.unknown,
        stat.explain,
    ),
    ViewName.LOADAVG: View(
        (FileView("loadavg", PROC / "loadavg", loadavg.render),),
        Source.LIMITS | Source.LOAD,
        limits_any,
        loadavg.unknown,
        loadavg.explain,
    ),
    ViewName.SWAPS: View(
        (FileView("swaps", PROC / "swaps", swaps.render),),
        Source.LIMITS | Source.MEMORY,
        _limits_memory,
        swaps.unknown,
        swaps.explain,
    ),
    ViewName.DISKSTATS: View(
        (FileView("diskstats", PROC / "diskstats", diskstats.render),),
        Source.LIMITS | Source.IO,
        limits_any,
        diskstats.unknown,
        diskstats.explain,
    ),
    ViewName.PRESSURE: View(
        tuple(
            FileView(
                f"pressure.{name}",
                PROC / "pressure" / name,
                pressure.render_irq if name == "irq" else pressure.render,
                pressure.own(name),
            )
            for name in pressure.NAMES
        ),
        Source.LIMITS,
        limits_any,
        pressure.unknown,
        pressure.explain,
    ),
    ViewName.CPU: View(
        (
            TreeView("cpu", SYS / "devices/system/cpu", cpu.render),
            TreeView("node", SYS / "devices/system/node", cpu.render_nodes),
        ),
        Source.LIMITS,
        _limits_cpu,
        cpu.unknown,
        cpu.explain,
    ),
    ViewName.UPTIME: View(
        (FileView("uptime", PROC / "uptime", uptime.render),),
        Source.LIMITS | Source.CPU | Source.TIME,
        limits_any,
        uptime.unknown,
        uptime.explain,
    ),
}

#: Everything that a container can be shown at.
TARGETS = tuple(file.target for view in VIEWS.values() for file in view.files)
