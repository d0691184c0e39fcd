# SPDX-License-Identifier: Apache-2.0
"""What of this agent is on a machine although it does not run: what was given to containers, with
the records of it, and the sockets in the kubelet's directory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from agents.config import NodeConfig, Section
from agents.errors import AgentError
from agents.mountinfo import MountEntry
from agents.remains import Errand, Remains, nobody_uses
from gpu_plugin import competitors, resources
from gpu_plugin.carriers import home_of
from gpu_plugin.config import GpuPluginConfig
from gpu_plugin.endpoint import socket_path
from gpu_plugin.identity import Allocations
from gpu_plugin.node_annotation import LARGEST_FREE_BLOCK

_LOST = (
    "its share of a GPU: it goes on using it, but nothing counts or limits that, the files about "
    "it are gone, and whoever offers the device next may give it to others"
)


def remains(node: NodeConfig, section: Section | None) -> Remains:
    """Without a section, no socket is known to be ours."""
    directory = node.state_dir / "gpu"
    plugins = node.kubelet_dir / "device-plugins"
    rules = section.resources if isinstance(section, GpuPluginConfig) else ()
    names = sorted({one.name for rule in rules for one in resources.resources_of(rule)})
    sockets = [socket_path(plugins, name) for name in names]
    return Remains(
        used=_used(Allocations(directory).containers),
        running=tuple(_serving(sockets)),
        files=(directory,),
        errands=tuple(_sockets(sockets)),
        annotations=(LARGEST_FREE_BLOCK,),
    )


def _serving(paths: Iterable[Path]) -> Iterable[str]:
    for path in paths:
        if (pid := competitors.listening_pid(path)) is not None:
            yield f"process {pid or 'in another pid namespace'}, which serves {str(path)!r}"


def _sockets(paths: Iterable[Path]) -> Iterable[Errand]:
    return (
        Errand(f"the socket {str(path)!r}", partial(_remove_socket, path))
        for path in paths
        if path.is_socket()
    )


def _remove_socket(path: Path) -> None:
    """Unless a plugin came meanwhile."""
    pid = competitors.listening_pid(path)
    if pid is not None:
        raise AgentError(f"{str(path)!r} is served by process {pid}", remedy="stop that plugin")
    path.unlink(missing_ok=True)


def _used(containers: Path) -> Callable[[MountEntry], str | None]:
    """A container has its directory mounted: the very one, by file system and path."""
    try:
        home = home_of(containers)
        home.directory.stat()
    except OSError:
        return nobody_uses
    below = f"{home.root.rstrip('/')}/"

    def used(entry: MountEntry) -> str | None:
        ours = entry.device == home.device and entry.root.startswith(below)
        return _LOST if ours else None

    return used
