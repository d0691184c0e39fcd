# SPDX-License-Identifier: Apache-2.0
"""What of one file system is in use on this node, in any container, without ever touching another
file system: a descriptor's mount is told by procfs (`mnt_id` in proc_pid_fdinfo(5)), and only what
lies on a mount of ours is asked for its inode. Also what is mapped (proc_pid_maps(5)), where a
process stands, and what a container has as a mount of its own.

What is open on other nodes nobody here can know.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from agents import mountinfo, processes
from agents.errors import AgentError
from agents.mountinfo import MountEntry

#: It has ended, or closed the file, or the server has the file no more.
_GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.ESTALE})


def open_inodes(proc: Path, entry: MountEntry) -> frozenset[int]:
    """Inode numbers on the file system of this mount. Processes that end meanwhile are passed over.
    Blocks for as long as it takes to look at every process. Raises AgentError when we may not look
    at one, OSError when we cannot: then nobody knows what is open. (A process of root that has
    more rights than we is passed over, as the node's own services are where we lack
    CAP_SYS_PTRACE.)
    """
    look = _Look(proc, entry)
    found: set[int] = set()
    ours = int(os.readlink(proc / "self"))  # noqa: PTH115 -- a pid; what we walk we have open
    for pid in processes.pids(proc):
        if pid == ours:
            continue
        try:
            found.update(look.at(pid))
        except PermissionError as error:
            if not _has_more_rights(proc, pid):
                raise AgentError(
                    f"cannot see which files process {pid} has open: {error.strerror}",
                    remedy="run it as root of the node, with CAP_SYS_PTRACE",
                ) from error
        except OSError as error:
            if error.errno not in _GONE:
                raise
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class _Space:
    """A mount namespace, as far as our file system is concerned. `mounts` are ids."""

    table: Sequence[MountEntry]
    mounts: frozenset[int]


@dataclass(frozen=True, slots=True)
class _Look:
    proc: Path
    entry: MountEntry
    spaces: dict[int, _Space] = field(default_factory=dict)

    def at(self, pid: int) -> Iterator[int]:
        process = self.proc / str(pid)
        namespace = (process / "ns/mnt").stat().st_ino
        space = self.spaces.get(namespace)
        if space is None:
            table = mountinfo.read(self.proc, pid)
            ours = [one for one in table if one.device == self.entry.device]
            space = _Space(table, frozenset(one.mount_id for one in ours))
            self.spaces[namespace] = space
            yield from self._roots(ours)
        # Most processes of a node see nothing of it.
        if space.mounts:
            yield from self._descriptors(process, space)
            yield from _mapped(process / "maps", self.entry.device)
            yield from self._standing(process, space)

    def _roots(self, mounts: Sequence[MountEntry]) -> Iterator[int]:
        """Folders and files that are mounted somewhere, such as a volume of a pod: removed, they
        would be there no more for whoever has them.
        """
        for one in mounts:
            root = PurePosixPath(one.root)
            if root != PurePosixPath(self.entry.root) and root.is_relative_to(self.entry.root):
                with contextlib.suppress(OSError):
                    path = Path(self.entry.mount_point, root.relative_to(self.entry.root))
                    yield path.lstat().st_ino

    def _descriptors(self, process: Path, space: _Space) -> Iterator[int]:
        for name in os.listdir(process / "fdinfo"):
            with _unless_gone():
                if _mount_of(process / "fdinfo" / name) in space.mounts:
                    yield (process / "fd" / name).stat().st_ino

    def _standing(self, process: Path, space: _Space) -> Iterator[int]:
        stands = mountinfo.covering(space.table, os.readlink(process / "cwd"))  # noqa: PTH115 -- text
        if stands is not None and stands.mount_id in space.mounts:
            yield (process / "cwd").stat().st_ino


def _has_more_rights(proc: Path, pid: int) -> bool:
    try:
        text = (proc / str(pid) / "status").read_text(errors="replace")
    except OSError as error:
        return error.errno in _GONE
    users = [line.split()[1:] for line in text.splitlines() if line.startswith("Uid:")]
    return os.geteuid() == 0 and users == [["0"] * 4]


@contextmanager
def _unless_gone() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _GONE:
            raise


def _mount_of(path: Path) -> int | None:
    for line in path.read_text(errors="replace").splitlines()[:8]:
        if line.startswith("mnt_id:"):
            return int(line.split()[1])
    return None


def _mapped(path: Path, device: tuple[int, int]) -> Iterator[int]:
    wanted = f"{device[0]:02x}:{device[1]:02x}"
    for line in path.read_text(errors="replace").split("\n"):
        fields = line.split(None, 5)
        if len(fields) >= 5 and fields[3] == wanted and fields[4] != "0":
            yield int(fields[4])
