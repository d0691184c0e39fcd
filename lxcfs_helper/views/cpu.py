# SPDX-License-Identifier: Apache-2.0
"""/sys/devices/system/cpu/online, possible and present of a container, which are alike. Pure.

The CPUs are numbered from 0, as cpuinfo and stat number them.
"""

from __future__ import annotations

from agents.cgroup_formats import format_cpu_list
from lxcfs_helper.facts import ContainerFacts, HostFacts


def render(host: HostFacts, container: ContainerFacts) -> bytes:
    """The whole file."""
    count = container.limits.cpu_count(host.cpus)
    return f"{format_cpu_list(frozenset(range(count)))}\n".encode()
