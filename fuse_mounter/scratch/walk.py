# SPDX-License-Identifier: Apache-2.0
"""Walk a directory tree by descriptors, so that nothing that is renamed or replaced meanwhile leads
elsewhere. Yields what it finds, in no order; decides nothing.

No link is followed and no mount is entered: not another file system or subvolume, and no bind of
this one (`mnt_id` in proc_pid_fdinfo(5)). Memory does not grow with the number of files: a
directory is read as the kernel hands it over. Names may hold anything but a slash; those that are
not UTF-8 are kept by surrogate escapes (PEP 383).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

#: Each level holds a descriptor. Nobody nests folders like that by hand.
DEEPEST = 200
#: Characters of a path: beyond it the kernel does not tell any more where a folder is (PATH_MAX).
LONGEST = 3000
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_KIND, _DIRECTORY = 0o170000, stat.S_IFDIR  # stat.S_ISDIR, without a call for each file
#: Files that are handed over together.
_MANY = 256
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE})
#: Not a matter of one file: the whole file system does not work any more.
BROKEN = frozenset({errno.ENOTCONN, errno.ESHUTDOWN, errno.EROFS, errno.ENODEV})


class Folder:
    """An open directory. `path` is relative to the root of the walk (empty: the root itself).

    `status` is as it was when it was opened. `kept` is set by whoever finds that something stays
    in it.
    """

    __slots__ = ("depth", "descriptor", "kept", "name", "parent", "path", "status")

    def __init__(self, descriptor: int, path: str, name: str, parent: Folder | None) -> None:
        self.descriptor, self.path, self.name, self.parent = descriptor, path, name, parent
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.status = os.fstat(descriptor)
        self.kept = False

    def of(self, name: str) -> str:
        """The path of what is called `name` in it."""
        return f"{self.path}/{name}" if self.path else name


class Files(NamedTuple):
    """Some of what lies in a folder and is none itself: also links, sockets and pipes. By name,
    with their status. Many at once, because there are millions of them.
    """

    folder: Folder
    entries: list[tuple[str, os.stat_result]]


@dataclass(frozen=True, slots=True)
class Emptied:
    """A folder after all that is in it, when it is still open for a moment."""

    folder: Folder


@dataclass(frozen=True, slots=True)
class Passed:
    """What was not looked at. `reason` is one of `mount`, `depth`, `unreadable`."""

    path: str
    reason: str


Found = Files | Emptied | Passed


def open_root(base: Path, folder: str | None = None) -> Folder:
    """Raises OSError. No link is followed from `base` on (the way there is the administrator's): a
    user may own what lies on the way to `folder`.
    """
    descriptor = os.open(base, _FOLDER)
    for name in PurePosixPath(folder or "").parts:
        try:
            deeper = os.open(name, _FOLDER, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = deeper
    return Folder(descriptor, "", "", None)


def mount_id(proc: Path, descriptor: int) -> int:
    """Of the mount through which a descriptor was opened."""
    # Once for each folder: a Path and a buffered file would take longer than the rest of it.
    told = os.open(f"{proc}/self/fdinfo/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(told, 4096)
    finally:
        os.close(told)
    for line in text.splitlines():
        if line.startswith(b"mnt_id:"):
            return int(line.split()[1])
    raise OSError(errno.ENOSYS, "this kernel does not tell the mount of a descriptor")


def walk(
    root: Folder,
    proc: Path,
    enter: Callable[[Folder], bool],
    mounts: frozenset[str] = frozenset(),
) -> Iterator[Found]:
    """All files below the root, and each folder that `enter` lets in after what is in it. The root
    stays open. `mounts` are paths below the root where something is mounted: they are not even
    asked for their status, since their server may hang; one that is not among them is noticed all
    the same. Raises OSError for the root, and when the file system does not work any more.
    """
    return _Walk(mount_id(proc, root.descriptor), root.status.st_dev, proc, enter, mounts).below(
        root
    )


@dataclass(frozen=True, slots=True)
class _Walk:
    mount: int
    device: int
    proc: Path
    enter: Callable[[Folder], bool]
    mounts: frozenset[str]

    def below(self, folder: Folder) -> Iterator[Found]:
        files: list[tuple[str, os.stat_result]] = []
        with os.scandir(folder.descriptor) as entries:
            for entry in entries:
                if self.mounts and folder.of(entry.name) in self.mounts:
                    yield _passed(folder, entry.name, "mount")
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError as error:
                    yield from _not_there(folder, entry.name, error)
                    continue
                if (status.st_mode & _KIND) == _DIRECTORY:
                    yield from self._open(folder, entry.name)
                    continue
                files.append((entry.name, status))
                if len(files) >= _MANY:
                    yield Files(folder, files)
                    files = []
        if files:
            yield Files(folder, files)

    def _open(self, folder: Folder, name: str) -> Iterator[Found]:
        if folder.depth >= DEEPEST or len(os.fsencode(folder.path)) > LONGEST:
            yield _passed(folder, name, "depth")
            return
        try:
            descriptor = os.open(name, _FOLDER, dir_fd=folder.descriptor)
        except OSError as error:  # also when it has become something else
            yield from _not_there(folder, name, error)
            return
        try:
            found = Folder(descriptor, folder.of(name), name, folder)
            # A subvolume has another device in the same mount.
            if found.status.st_dev == self.device and (
                mount_id(self.proc, descriptor) == self.mount
            ):
                yield from self._into(found, folder)
            else:
                yield _passed(folder, name, "mount")
        except OSError as error:
            yield from _not_there(folder, name, error)
        finally:
            os.close(descriptor)

    def _into(self, folder: Folder, parent: Folder) -> Iterator[Found]:
        if not self.enter(folder):
            parent.kept = True
            return
        try:
            yield from self.below(folder)
        except OSError as error:
            yield from _not_there(folder, "", error)
        yield Emptied(folder)


def _not_there(folder: Folder, name: str, error: OSError) -> Iterator[Passed]:
    """Nothing for what was removed or replaced meanwhile."""
    if error.errno in BROKEN:
        raise error
    if error.errno not in _GONE:
        yield _passed(folder, name, "unreadable")


def _passed(folder: Folder, name: str, reason: str) -> Passed:
    folder.kept = True
    return Passed(folder.of(name).rstrip("/"), reason)
