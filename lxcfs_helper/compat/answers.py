# SPDX-License-Identifier: Apache-2.0
"""What each path is and says, for each caller: his container's, or the host's. Counts who got what.
Knows no FUSE.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from lxcfs_helper.compat.callers import Callers, Home, UnknownCaller
from lxcfs_helper.compat.containers import Containers, Gone
from lxcfs_helper.compat.host_tree import CPU_DIRECTORY, DIRECTORY, FILE, HostTree, Node

_PRESSURE = "proc/pressure/"
_SLABS = "proc/slabinfo"
#: The kernel lets root alone read the host's.
_ROOT_ALONE = frozenset({_SLABS})
_SLABS_HEADING = 2

T = TypeVar("T")


class Answers:
    """Not thread-safe. `virtual` False: everybody is shown the host's values."""

    def __init__(self, host: HostTree, callers: Callers, containers: Containers) -> None:
        self._host, self._callers, self._containers = host, callers, containers
        self.virtual = True
        #: Files opened, by path; those in sys/ all together.
        self.opens: Counter[str] = Counter()
        #: Answers with the host's values that were meant for a container, by reason.
        self.fallbacks: Counter[str] = Counter()

    def home(self, pid: int) -> Home | None:
        """Whose values this thread is shown; None: the host's."""
        if not self.virtual:
            return None
        try:
            return self._callers.home(pid)
        except (UnknownCaller, OSError):
            self.fallbacks["unknown caller"] += 1
            return None

    def node(self, path: str, home: Home | None) -> Node | None:
        """What is at a path; None: nothing. The size of a file in proc/ is not in it."""
        tree = self._tree(home) if path.startswith(CPU_DIRECTORY) else None
        if tree is not None and path != CPU_DIRECTORY:
            below = path.removeprefix(CPU_DIRECTORY + "/")
            if below in tree:
                return FILE
            return DIRECTORY if any(name.startswith(below + "/") for name in tree) else None
        return self._host.node(path)

    def names(self, path: str, home: Home | None) -> Sequence[str]:
        """What is in a directory. Raises OSError."""
        tree = self._tree(home) if path.startswith(CPU_DIRECTORY) else None
        if tree is None:
            return self._host.names(path)
        below = path.removeprefix(CPU_DIRECTORY).lstrip("/")
        prefix = f"{below}/" if below else ""
        inside = (name.removeprefix(prefix) for name in tree if name.startswith(prefix))
        return sorted({name.partition("/")[0] for name in inside})

    def link(self, path: str) -> bytes:
        """Where a symbolic link leads. Raises OSError."""
        return self._host.link(path)

    def text(self, path: str, home: Home | None) -> bytes:
        """All of a file. Raises OSError."""
        if home is None or not self.virtual:
            return self._host.text(path)
        own = self._of_container(lambda: self._own_text(path, home))
        return self._host.text(path) if own is None else own

    def pressure(self, path: str, home: Home | None) -> Path | None:
        """The container's own pressure file that is behind this path; None: there is none."""
        if home is None or not path.startswith(_PRESSURE):
            return None
        return self._of_container(lambda: self._containers.native(home, path))

    def size(self, path: str, node: Node, home: Home | None) -> int:
        """In bytes, as the text would be now; of the host's files in sys/ what the kernel says,
        which is a page. Raises OSError."""
        if not stat.S_ISREG(node.mode):
            return 0
        return node.size or len(self.text(path, home))

    def readable(self, path: str, node: Node, home: Home | None, uid: int) -> bool:
        """Whether this user may read a file: as the kernel has it for its own files."""
        if uid == 0 or (home is not None and path.startswith("proc/")):
            return True
        return path not in _ROOT_ALONE and bool(node.mode & stat.S_IROTH)

    def _own_text(self, path: str, home: Home) -> bytes | None:
        if path == _SLABS:  # no cgroup counts them: a table without rows
            lines = self._host.text(path).splitlines(keepends=True)
            return b"".join(lines[:_SLABS_HEADING])
        tree = self._tree(home) if path.startswith(CPU_DIRECTORY) else None
        if tree is not None and (text := tree.get(path.removeprefix(CPU_DIRECTORY + "/"))):
            return text
        return self._containers.text(home, path)

    def _tree(self, home: Home | None) -> Mapping[str, bytes] | None:
        if home is None or not self.virtual:
            return None
        return self._of_container(lambda: self._containers.tree(home, CPU_DIRECTORY))

    def _of_container(self, ask: Callable[[], T]) -> T | None:
        try:
            return ask()
        except Gone:
            self.fallbacks["cgroup gone"] += 1
        except (OSError, ValueError):
            self.fallbacks["not readable"] += 1
        return None
