# SPDX-License-Identifier: Apache-2.0
"""Which processes carry which allocation directories, proven by their mount tables. Blocking.

Knows no container, GPU or kubelet. A process shows what it was given by a mount whose root is the
very directory: the same path on the same file system, and through the process's own root the same
device and inode. A path that merely ends like it is anybody's volume.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from agents import mountinfo
from agents.hostfs import PROC
from agents.processes import pids, speaking_thread

T = TypeVar("T")

_ENDED = (FileNotFoundError, ProcessLookupError)

#: So ends the root of a mount whose directory was deleted; it has no path any more, but it had.
_DELETED = "//deleted"


@dataclass(frozen=True, slots=True)
class Home:
    """Where all allocation directories are: the path within their file system, and that."""

    directory: Path
    root: str
    device: tuple[int, int]


def home_of(directory: Path) -> Home:
    """By this process's own mounts, as the directory may be on a file system of its own, or bound
    here from elsewhere. Raises OSError.
    """
    real = directory.resolve()
    mount = mountinfo.covering(mountinfo.read(PROC), real)
    if mount is None:
        raise FileNotFoundError(f"no mount holds {str(real)!r}")
    below = real.relative_to(mount.mount_point)
    return Home(directory, str(PurePosixPath(mount.root) / below), mount.device)


@dataclass(frozen=True, slots=True)
class View:
    """What one process sees. Processes of one mount namespace see the same mounts, unless one has
    another root directory.
    """

    namespace: int
    root: tuple[int, int]


class Unreadable(OSError):
    """This process lets nobody look at it, though it runs."""


class Carriers:
    """Looks at processes, through `proc`, for directories of a `home`."""

    def __init__(self, proc: Path, home: Home) -> None:
        self._proc, self._home = proc, home
        self._below = f"{home.root.rstrip('/')}/"
        # A path with a character that the kernel escapes is looked for in what was parsed alone.
        plain = not set(self._below) & set(" \t\n\\")
        self._quick = os.fsencode(self._below) if plain else b""

    def view(self, pid: int) -> View:
        """Raises FileNotFoundError or ProcessLookupError when it has ended, else Unreadable."""

        def look(process: str) -> View:
            root = (self._proc / process / "root").stat()
            namespace = (self._proc / process / "ns/mnt").stat().st_ino
            return View(namespace, (root.st_dev, root.st_ino))

        return self._told(pid, look)

    def carried(self, pid: int, names: Set[str]) -> set[str]:
        """Those of `names` whose directory this process has mounted. Raises like `view`."""

        def look(process: str) -> set[str]:
            if self._quick not in (self._proc / process / "mountinfo").read_bytes():
                return set()
            entries = mountinfo.read(self._proc, process)
            found = self._candidates(entries, names)
            return {name for name, entry in found if self._is(process, entry)}

        return self._told(pid, look)

    def _told(self, pid: int, look: Callable[[str], T]) -> T:
        """By the process; by one of its other threads where the first one has ended."""
        try:
            try:
                return look(str(pid))
            except OSError as error:
                # EINVAL is what the kernel says of mounts of one that has just ended.
                if not isinstance(error, _ENDED) and error.errno != errno.EINVAL:
                    raise
                thread = speaking_thread(self._proc, pid)
                if thread is None:
                    raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from error
                return look(f"{pid}/task/{thread}")
        except _ENDED:
            raise
        except OSError as error:
            raise Unreadable(*error.args) from error

    def _candidates(
        self, entries: tuple[mountinfo.MountEntry, ...], names: Set[str]
    ) -> Iterator[tuple[str, mountinfo.MountEntry]]:
        """By path and file system; the kernel writes both, and no name of a mount is in it."""
        for entry in entries:
            if entry.device == self._home.device and entry.root.startswith(self._below):
                name = entry.root.removeprefix(self._below).removesuffix(_DELETED)
                if name in names:
                    yield name, entry

    def _is(self, process: str, entry: mountinfo.MountEntry) -> bool:
        """Whether what lies there is the directory. One that was deleted (and made again: a
        container keeps the former) is beyond comparison, and known by its path alone.
        """
        if entry.root.endswith(_DELETED):
            return True
        name = entry.root.removeprefix(self._below)
        try:
            there = Path(f"{self._proc}/{process}/root{entry.mount_point}").stat()
            ours = (self._home.directory / name).lstat()
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def sweep(
    proc: Path,
    home: Home,
    names: Set[str],
    concerns: Callable[[int], bool] = lambda _: True,
    among: Iterable[int] | None = None,
) -> Iterator[tuple[int, set[str] | None]]:
    """Of all processes (or those `among` them) every one that differs in its view from those before
    it, carries something, and `concerns` the caller; with None each that runs and could not be
    looked at.
    """
    carriers, seen = Carriers(proc, home), set[View]()
    for pid in pids(proc) if among is None else among:
        try:
            view = carriers.view(pid)
            found = set() if view in seen else carriers.carried(pid, names)
        except _ENDED:
            continue  # it ended meanwhile, or is a zombie: that tells nothing of its view
        except Unreadable:
            yield pid, None
            continue
        if not found:
            seen.add(view)
        elif concerns(pid):
            seen.add(view)
            yield pid, found
