# SPDX-License-Identifier: Apache-2.0
"""/proc/swaps of a container: its share of the host's swap, as one device without a name. Pure.

The numbers are those of meminfo. What device the host swaps to is not the container's to know.
"""

from __future__ import annotations

from lxcfs_helper.facts import ContainerFacts, HostFacts
from lxcfs_helper.views import meminfo
from lxcfs_helper.views.view import Told

_HEADING = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"


def render(host: HostFacts, container: ContainerFacts) -> bytes:
    """The whole file: a heading alone, where nothing may be swapped."""
    total, free = meminfo.swap(host, container)
    if not total:
        return _HEADING.encode()
    size, used = total // 1024, (total - free) // 1024
    width = len(str(size))
    return f"{_HEADING}{'none':<40}virtual\t\t{size}\t\t{used:<{width}}\t\t-2\n".encode()


def unknown(host: HostFacts, container: ContainerFacts) -> tuple[str, ...]:
    """What is used, where swap is not accounted."""
    return ("Size", "Used") if meminfo.swap_is_unknown(host, container) else ()


def explain(host: HostFacts, container: ContainerFacts) -> tuple[Told, ...]:
    """Size and use, as meminfo tells them."""
    total, free = meminfo.swap(host, container)
    of_host = host.meminfo.get("SwapTotal", 0), host.meminfo.get("SwapFree", 0)
    return (
        Told("Size", f"{total // 1024} kB", f"{of_host[0]} kB", "meminfo", "SwapTotal"),
        Told(
            "Used",
            f"{(total - free) // 1024} kB",
            f"{of_host[0] - of_host[1]} kB",
            "meminfo",
            "SwapTotal - SwapFree",
        ),
    )
