# SPDX-License-Identifier: Apache-2.0
"""The files in which users' tokens lie, as EOS and XRootD demand it: one directory a user id on
a tmpfs of our own, and in it regular files that belong to the user, mode 0400.

    <directory>/            0711, root: nobody can list who is here
    <directory>/<uid>/      0711, root: its user cannot put anything there; pods bind it read-only
    <directory>/<uid>/<name>  0400, the user's own

eosxd opens the file as the caller's uid below the caller's root, refuses links on the whole way and
any bit for others, and takes a changed modification time for a reason to log in anew; XRootD's ztn
client refuses files with any bit for group or others. A file is made under another name with its
final owner and mode before the first byte of it, and takes the place of the old one whole.

Knows no source and no provider. Blocks for moments: it is memory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from agents import mountinfo
from agents.errors import AgentError
from agents.mounts import MountFlag, Mounts, Propagation

#: What mount tables show as the source of the tmpfs.
SOURCE = "nodeshare:credentials"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TRAVERSED = 0o711
_OWN = 0o400
_FLAGS = MountFlag.NOSUID | MountFlag.NODEV | MountFlag.NOEXEC
_USER = re.compile(r"[0-9]{1,10}")
_HIGHEST_UID = (1 << 32) - 2  # the last one means "no user" (chown(2))


@dataclass(frozen=True, slots=True)
class TokenFiles:
    """`directory` is where the tmpfs is, or shall be. All methods raise OSError, or AgentError with
    what to do.
    """

    directory: Path
    proc: Path
    mounts: Mounts

    def prepare(self) -> None:
        """The tmpfs: made once, and found again by every later agent."""
        self.directory.mkdir(mode=_TRAVERSED, parents=True, exist_ok=True)
        stack = mountinfo.at(mountinfo.read(self.proc), self.directory.resolve())
        if not stack:
            if left := sorted(self.directory.iterdir()):
                raise AgentError(
                    f"{str(self.directory)!r} is not empty: {left[0].name!r} would be hidden",
                    remedy="empty it (pods that bound it before must start anew), or name another",
                )
            self._mount()
            self.mounts.set_propagation(self.directory, Propagation.SHARED)
        elif stack[-1].source != SOURCE:
            raise AgentError(
                f"{str(self.directory)!r} is a mount of {stack[-1].source!r}, and not ours",
                remedy="unmount it, or name another directory",
            )
        self.directory.chmod(_TRAVERSED)

    def _mount(self) -> None:
        options = f"mode={_TRAVERSED:o},size=64m,nr_inodes=64k"
        try:  # never on a disk, not even by swapping: Linux 6.4
            self.mounts.mount(SOURCE, self.directory, "tmpfs", _FLAGS, f"{options},noswap")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self.mounts.mount(SOURCE, self.directory, "tmpfs", _FLAGS, options)

    def keep_only(self, names: Container[str]) -> tuple[str, ...]:
        """Take away files of other names, and what was not finished when an agent was killed. Says
        which, such as `1000/old.token`. Only what was written by an agent, only where one wrote.
        """
        gone = []
        for uid in self.users():
            try:
                directory = os.open(self.directory / str(uid), _DIRECTORY)
            except OSError:
                continue
            try:
                for name in os.listdir(directory):
                    if name not in names and _is_ours(directory, name, uid):
                        os.unlink(name, dir_fd=directory)
                        gone.append(f"{uid}/{name}")
            finally:
                os.close(directory)
        return tuple(gone)

    def remove(self) -> None:
        """All of it, for the end of a node's service."""
        stack = mountinfo.at(mountinfo.read(self.proc), self.directory.resolve())
        if stack and stack[-1].source == SOURCE:
            self.mounts.unmount(self.directory, detach=True)
        with contextlib.suppress(OSError):
            self.directory.rmdir()

    def users(self) -> tuple[int, ...]:
        """User ids that have a directory."""
        names = (path.name for path in self.directory.iterdir())
        return tuple(sorted(int(name) for name in names if _USER.fullmatch(name)))

    def write(self, uid: int, gid: int, name: str, content: str) -> bool:
        """Make the user's file say this. False: it says so already, and its times stay as they are.
        Raises AgentError when the user's directory is not ours.
        """
        with self._of_user(uid) as directory:
            if _read(directory, name, uid) == content:
                return False
            aside = f".{name}.{secrets.token_hex(8)}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(aside, flags, 0, dir_fd=directory)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    os.fchmod(descriptor, _OWN)
                    os.fchown(descriptor, uid, gid)
                    file.write(content.encode())
                    file.flush()
                    os.fsync(descriptor)
                os.replace(aside, name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(aside, dir_fd=directory)
                raise
        return True

    def read(self, uid: int, name: str) -> str | None:
        """What the user's file says; None: it is not there, or not as we write it."""
        try:
            directory = os.open(self.directory / str(uid), _DIRECTORY)
        except OSError:
            return None
        try:
            return _read(directory, name, uid)
        finally:
            os.close(directory)

    def forget(self, uid: int, name: str) -> None:
        """The user's file is not to be there. His directory stays: pods are bound to it."""
        with contextlib.suppress(FileNotFoundError):
            (self.directory / str(uid) / name).unlink()

    @contextlib.contextmanager
    def _of_user(self, uid: int) -> Iterator[int]:
        """The directory of a user, made or adopted, as a descriptor."""
        if not 0 < uid <= _HIGHEST_UID:
            raise AgentError(f"{uid} is not the id of a user who gets tokens; ids begin at 1")
        path = self.directory / str(uid)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=_TRAVERSED)
        try:
            directory = os.open(path, _DIRECTORY)
        except OSError as error:
            raise AgentError(
                f"{str(path)!r} is no directory: {error.strerror}",
                remedy="remove it; it is made anew",
            ) from error
        try:
            _adopt(directory, path)
            yield directory
        finally:
            os.close(directory)


def _adopt(directory: int, path: Path) -> None:
    """The kubelet makes a missing host path itself (root, 0755), when a pod was quicker than we."""
    status = os.fstat(directory)
    if stat.S_IMODE(status.st_mode) == _TRAVERSED and status.st_uid == os.geteuid():
        return
    if status.st_uid != os.geteuid() or os.listdir(directory):
        raise AgentError(
            f"{str(path)!r} was not made by this agent: it belongs to user {status.st_uid}, and "
            f"holds {len(os.listdir(directory))} entries",
            remedy="remove it; it is made anew, and pods that bound it must start anew",
        )
    os.fchmod(directory, _TRAVERSED)


def _is_ours(directory: int, name: str, uid: int) -> bool:
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    mode = stat.S_IMODE(status.st_mode)
    unfinished = name.startswith(".") and mode == 0 and status.st_uid == os.geteuid()
    return stat.S_ISREG(status.st_mode) and (
        unfinished or (mode == _OWN and status.st_uid in (uid, os.geteuid()))
    )


def _read(directory: int, name: str, uid: int) -> str | None:
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        with os.fdopen(os.open(name, flags, dir_fd=directory), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or stat.S_IMODE(status.st_mode) != _OWN:
                return None
            return file.read().decode() if status.st_uid == uid else None
    except (OSError, UnicodeDecodeError):
        return None
