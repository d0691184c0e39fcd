# SPDX-License-Identifier: Apache-2.0
"""What a view is: one or several files or directories that a container is shown, what they are made
of, and how they are explained. Types only; knows no view.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lxcfs_helper.container_limits import Limits
from lxcfs_helper.facts import ContainerFacts, HostFacts, NativeFile
from lxcfs_helper.sources import Source

#: Files of a directory by their path below it.
Tree = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class FileView:
    """One file. `name` is what it is called among the container's files, `target` where the
    container reads it.

    `native`: the kernel's own file of this container's cgroup, which is attached itself instead of
    a rendered one (what `render` gives stands in where there is none).
    """

    name: str
    target: Path
    render: Callable[[HostFacts, ContainerFacts], bytes]
    native: Callable[[ContainerFacts], NativeFile | None] | None = None


@dataclass(frozen=True, slots=True)
class TreeView:
    """A whole directory, attached as one: what is not in it does not exist for the container. Many
    containers have the same one, so there are few different ones."""

    name: str
    target: Path
    render: Callable[[HostFacts, ContainerFacts], Tree]


@dataclass(frozen=True, slots=True)
class Told:
    """One number, as it is shown: the host's beside it (None: it has none), the file and cgroup
    where it came from, and how it was worked out."""

    what: str
    value: str
    host: str | None
    origin: str
    formula: str


@dataclass(frozen=True, slots=True)
class View:
    """`files` are shown together or not at all.

    `applies` says whether a container with these limits is shown it: without limits the host's own
    file is the truth. It is rendered again when one of its `sources` moved; one that has no sources
    but the limits is written on a change of limits alone. `unknown` names what other kernels tell
    of a container and this one does not, and what is therefore shown as zero or left out. `explain`
    tells where each number came from.
    """

    files: tuple[FileView | TreeView, ...]
    sources: Source
    applies: Callable[[Limits, HostFacts], bool]
    unknown: Callable[[HostFacts, ContainerFacts], tuple[str, ...]]
    explain: Callable[[HostFacts, ContainerFacts], tuple[Told, ...]]

    @property
    def targets(self) -> tuple[Path, ...]:
        """Where a container reads it."""
        return tuple(file.target for file in self.files)


def nothing_unknown(host: HostFacts, container: ContainerFacts) -> tuple[str, ...]:
    """Where every kernel tells the same."""
    return ()
