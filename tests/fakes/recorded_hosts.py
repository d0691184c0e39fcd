# SPDX-License-Identifier: Apache-2.0
"""The recorded hosts of tests/fixtures/host, and what views are rendered from on them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from agents.cgroups import LinuxCgroups
from agents.hostfs import HostFs
from lxcfs_helper.facts import ContainerFacts, HostFacts
from lxcfs_helper.host_reading import HostReader
from lxcfs_helper.reading import ContainerReader
from lxcfs_helper.sources import EVERYTHING
from lxcfs_helper.views import VIEWS

#: The container's process in every tree.
PID = 4242

HOSTS = Path(__file__).parents[1] / "fixtures/host"
NAMES = tuple(sorted(path.name for path in HOSTS.iterdir()))


def host_fs(tree: Path) -> HostFs:
    """A tree that is laid out as / is."""
    return HostFs(tree / "proc", tree / "sys", tree / "dev", tree / "sys/fs/cgroup")


def recorded(name: str) -> HostFs:
    """One of the recorded hosts."""
    return host_fs(HOSTS / name)


@cache
def facts(
    name: str, *, started: float = 1000.0, now: float = 1100.0
) -> tuple[HostFacts, ContainerFacts]:
    """What is known of a recorded host and its container, which runs since `started`."""
    fs = recorded(name)
    cgroups = LinuxCgroups(fs)
    targets = [file.target for view in VIEWS.values() for file in view.files]
    reader = ContainerReader(cgroups.open(cgroups.paths(PID)), fs.proc, started)
    try:
        host = HostReader(fs, targets).read()
        container = reader.read(int(EVERYTHING), host, now)
        assert container is not None
        return host, container
    finally:
        reader.close()
