# SPDX-License-Identifier: Apache-2.0
"""/proc/pressure/{cpu,memory,io,irq} of a container: the files of its own cgroup. Pure.

They are attached themselves, so nothing is copied or gets old, and triggers (poll) work. Where the
container has no cgroup2 directory of its own (v1 alone), no pressure is known: zeros.
"""

from __future__ import annotations

from collections.abc import Callable

from agents.hostfs import PROC
from lxcfs_helper.facts import ContainerFacts, HostFacts, NativeFile
from lxcfs_helper.views.view import Told

#: What the kernel tells pressure of, and so the names of its files; irq only where it is configured
#: to account for it.
NAMES = ("cpu", "memory", "io", "irq")

_SOME, _FULL = (f"{who} avg10=0.00 avg60=0.00 avg300=0.00 total=0\n" for who in ("some", "full"))


def render(host: HostFacts, container: ContainerFacts) -> bytes:
    """What stands in for the kernel's own file where there is none."""
    return f"{_SOME}{_FULL}".encode()


def render_irq(host: HostFacts, container: ContainerFacts) -> bytes:
    """The same: interrupts hold up everybody or nobody."""
    return _FULL.encode()


def own(name: str) -> Callable[[ContainerFacts], NativeFile | None]:
    """How to find the container's own file of this name."""
    return lambda container: container.pressure.get(name)


def unknown(host: HostFacts, container: ContainerFacts) -> tuple[str, ...]:
    """Those without a file of the container's own."""
    return tuple(
        name
        for name in NAMES
        if PROC / "pressure" / name in host.offers and name not in container.pressure
    )


def explain(host: HostFacts, container: ContainerFacts) -> tuple[Told, ...]:
    """Which file each one is."""
    return tuple(
        _told(name, container.pressure.get(name), host)
        for name in NAMES
        if PROC / "pressure" / name in host.offers
    )


def _told(name: str, file: NativeFile | None, host: HostFacts) -> Told:
    of_host = host.texts.get(f"pressure/{name}", "").partition("\n")[0] or None
    if file is None:
        rule = "zero: it has no cgroup2 directory of its own"
        return Told(name, _SOME.strip(), of_host, "rule", rule)
    return Told(name, "the kernel's own file", of_host, file.root, "attached itself")
