# SPDX-License-Identifier: Apache-2.0
"""The files that containers read: one small file for each container and view, on a private tmpfs.

The tmpfs is mounted once and outlives the agent, and so do the files in it. A file is rewritten in
place by one write of the same length, never truncated: a reader sees the old text or the new one.
When the length must change, a new file takes its name and the old one is put aside, not deleted:
the kernel refuses to mount over a deleted file (which is how it is replaced where nothing can be
attached beneath), and deleting a file that something is mounted over unmounts that everywhere.
Knows no container but its id, and no view but its name.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from agents import mountinfo
from agents.errors import Unavailable
from agents.hostfs import PROC
from agents.mounts import MountFlag, Mounts, Propagation
from lxcfs_helper import trees

_FILE_SYSTEM = "tmpfs"
_SOURCE = "nodeshare-views:"
_OPTIONS = "mode=0755,size=256m"
#: Directories that are the same for many containers; no container's id begins with a dot.
_SHARED = ".shared"
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")


def views_directory(run_dir: Path) -> Path:
    """Where the tmpfs with everybody's files is."""
    return run_dir / "views"


def source_name(directory: Path) -> str:
    """What mountinfo calls our file system, here and in containers. It names the directory, so that
    agents with another one leave ours alone, and we theirs.
    """
    return f"{_SOURCE}{directory}"


class ViewFiles:
    """All files below `directory`. Not thread-safe, except `path` and `device`."""

    def __init__(self, directory: Path, mounts: Mounts, proc: Path) -> None:
        self.directory = directory
        self._mounts = mounts
        self._proc = proc
        self._open: dict[str, dict[str, tuple[int, int]]] = {}
        self.source = source_name(directory)
        self.device: tuple[int, int] | None = None

    def mount(self) -> bool:
        """Make sure that the tmpfs is there. True: it is a new and empty one, or was not known yet.

        Raises Unavailable.
        """
        if self.device is not None and self._device() == self.device:
            return False
        self.close()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if not self.mounted():
                flags = MountFlag.NOSUID | MountFlag.NODEV | MountFlag.NOEXEC
                self._mounts.mount(self.source, self.directory, _FILE_SYSTEM, flags, _OPTIONS)
                self._mounts.set_propagation(self.directory, Propagation.PRIVATE)
        except OSError as error:
            raise Unavailable(
                f"cannot mount a tmpfs at {str(self.directory)!r}: {error.strerror}",
                remedy="the agent must be root with CAP_SYS_ADMIN; see node.run_dir",
            ) from error
        self.device = self._device()
        return True

    def adopt(self) -> None:
        """Take over the tmpfs of the agent before us, if there is one. Raises Unavailable."""
        if self.directory.is_dir() and self.mounted():
            self.mount()

    def _device(self) -> tuple[int, int] | None:
        try:
            number = self.directory.stat().st_dev
        except FileNotFoundError:
            return None
        return os.major(number), os.minor(number)

    def mounted(self) -> bool:
        """Whether our tmpfs is the topmost mount at its place."""
        stack = mountinfo.at(mountinfo.read(self._proc), self.directory.resolve())
        return bool(stack) and is_ours(stack[-1], self.source)

    def unmount(self) -> None:
        """Take away the tmpfs and its directory; files that are still shown somewhere live on."""
        self.close()
        while self.directory.exists() and self.mounted():
            self._mounts.unmount(self.directory, detach=True)
        if self.directory.is_dir() and not any(self.directory.iterdir()):
            self.directory.rmdir()

    def containers(self) -> frozenset[str]:
        """Ids of all containers that have files, also from the agent before us."""
        if self.device is None:
            return frozenset()
        return frozenset(name for name in os.listdir(self.directory) if name != _SHARED)

    def directory_of(self, container_id: str) -> Path:
        """Where the files of one container are, or would be."""
        return self.directory / _checked(container_id)

    def path(self, container_id: str, name: str) -> Path:
        """Where a file is, or would be."""
        return self.directory_of(container_id) / name

    def root(self, container_id: str, name: str) -> str:
        """What mountinfo calls the root of a mount of this file, as long as it has not been
        replaced."""
        return f"/{container_id}/{name}"

    def read(self, container_id: str, name: str) -> bytes | None:
        """What a file holds; None: there is none."""
        try:
            return self.path(container_id, name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, container_id: str, name: str, content: bytes) -> bool:
        """Make a file hold this. True: it is a new file, which is not shown anywhere yet."""
        opened = self._opened(container_id, name)
        if opened is not None and opened[1] == len(content):
            _write(opened[0], content)
            return False
        self._replace(container_id, name, content)
        return True

    def write_tree(self, container_id: str, name: str, files: Mapping[str, bytes]) -> bool:
        """Make a directory hold these files, by their path below it. True: it is another one than
        before, which is not shown there yet.

        It is never changed: all of it is one statement. Containers with the same one share it. It
        is made once and stays, so there must not be many different ones.
        """
        shared = self.directory / _SHARED / f"{name}.{trees.digest(files)}"
        if not shared.is_dir():
            new = shared.with_name(f".{name}.new")
            trees.write(new, files)
            new.rename(shared)
        link = self.path(container_id, name)
        target = f"../{_SHARED}/{shared.name}"
        if link.is_symlink() and str(link.readlink()) == target:
            return False
        link.parent.mkdir(exist_ok=True)
        new = link.with_name(f".{name}.new")
        new.unlink(missing_ok=True)
        new.symlink_to(target)
        new.replace(link)
        return True

    def tree(self, container_id: str, name: str) -> tuple[Path, str]:
        """Where a directory is, and what mountinfo calls the root of a mount of it."""
        path = self.path(container_id, name)
        if path.is_symlink():
            path = self.directory / _SHARED / path.readlink().name
        return path, f"/{path.relative_to(self.directory)}"

    def remove(self, container_id: str) -> None:
        """Take away all files of a container; what still shows them keeps the last values."""
        self._forget(container_id)
        shutil.rmtree(self.directory / _checked(container_id), ignore_errors=True)

    def discard_superseded(self, container_id: str) -> None:
        """Delete what was put aside; for when nothing shows it and nothing is mounted over it."""
        directory = self.directory / _checked(container_id)
        for name in os.listdir(directory) if directory.is_dir() else ():
            if name.startswith("."):
                (directory / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of open files; they stay where they are."""
        for container_id in [*self._open]:
            self._forget(container_id)

    def _opened(self, container_id: str, name: str) -> tuple[int, int] | None:
        """Descriptor and length of a file that exists, perhaps from the agent before us."""
        files = self._open.get(container_id)
        if files is not None and name in files:
            return files[name]
        try:
            descriptor = os.open(self.path(container_id, name), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        found = descriptor, os.fstat(descriptor).st_size
        self._open.setdefault(container_id, {})[name] = found
        return found

    def _replace(self, container_id: str, name: str, content: bytes) -> None:
        """The new file stays open: to open it later would look as if somebody read it."""
        path = self.path(container_id, name)
        path.parent.mkdir(exist_ok=True)
        new = path.with_name(f".{name}.new")
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
        try:
            os.fchmod(descriptor, 0o444)
            _write(descriptor, content)
            self._put_in_place(new, path)
        except OSError:
            os.close(descriptor)
            new.unlink(missing_ok=True)
            raise
        files = self._open.setdefault(container_id, {})
        if name in files:
            os.close(files[name][0])
        files[name] = descriptor, len(content)

    def _put_in_place(self, new: Path, path: Path) -> None:
        if path.exists():
            # Whoever attaches it between these two finds nothing, and tries again.
            path.rename(path.with_name(f".{path.name}.{path.stat().st_ino}"))
        new.rename(path)

    def _forget(self, container_id: str) -> None:
        for descriptor, _ in self._open.pop(container_id, {}).values():
            os.close(descriptor)


def _write(descriptor: int, content: bytes) -> None:
    """All of it by one write, or OSError."""
    if os.pwrite(descriptor, content, 0) != len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def is_ours(entry: mountinfo.MountEntry, source: str) -> bool:
    """Whether this is the file system with this source or a file in it, perhaps an earlier one; or
    a cgroup's own file in the place where only we attach one."""
    return (entry.fstype == _FILE_SYSTEM and entry.source == source) or _is_pressure(entry)


def is_of_any_agent(entry: mountinfo.MountEntry) -> bool:
    """Whether this is a file system of views, ours or that of an agent with another directory."""
    return entry.fstype == _FILE_SYSTEM and entry.source.startswith(_SOURCE)


def _is_pressure(entry: mountinfo.MountEntry) -> bool:
    directory, _, name = entry.mount_point.rpartition("/")
    return (
        entry.fstype == "cgroup2"
        and directory == str(PROC / "pressure")
        and entry.root.endswith(f"/{name}.pressure")
    )


def _checked(container_id: str) -> str:
    if not _SAFE_ID.fullmatch(container_id):
        raise Unavailable(f"{container_id!r} is no container id that can name a directory")
    return container_id
