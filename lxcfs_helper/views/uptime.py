# SPDX-License-Identifier: Apache-2.0
"""/proc/uptime of a container: since when its first process runs, and how long it was idle. Pure.

Shown only where it is asked for: process start times count from the boot of the host, so `ps` and
`top` reckon wrongly with it (a process seems to have been started before the machine). Only a time
namespace, made with the container, could tell both alike.
"""

from __future__ import annotations

from lxcfs_helper.facts import ContainerFacts, HostFacts
from lxcfs_helper.views.view import Told, nothing_unknown

#: Two numbers of seconds with hundredths; longer only after three years on a hundred CPUs.
_WIDTH = 24

unknown = nothing_unknown


def render(host: HostFacts, container: ContainerFacts) -> bytes:
    """The whole file; its length stays."""
    up, idle = _seconds(host, container)
    return f"{f'{up:.2f} {idle:.2f}':<{_WIDTH}}\n".encode()


def explain(host: HostFacts, container: ContainerFacts) -> tuple[Told, ...]:
    """Both numbers."""
    up, idle = _seconds(host, container)
    capacity = container.limits.capacity(host.cpus)
    start = "start time in /proc/<pid>/stat"
    of_host = [f"{seconds} s" for seconds in host.texts.get("uptime", "- -").split()]
    return (
        Told("up", f"{up:.2f} s", of_host[0], start, "time since its first process was started"),
        Told("idle", f"{idle:.2f} s", of_host[1], "CPU time", f"{capacity:g} CPUs x up - used"),
    )


def _seconds(host: HostFacts, container: ContainerFacts) -> tuple[float, float]:
    up = container.age_s
    used = container.account.times.used_s
    return up, max(0.0, container.limits.capacity(host.cpus) * up - used)
