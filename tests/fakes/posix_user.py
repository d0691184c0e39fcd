# SPDX-License-Identifier: Apache-2.0
"""A user who does in a directory what he is told, and tells what came of it: a program.

`posix_user.py '[UID, GID, [GROUP, …], DIRECTORY]'`; then a line of JSON for each operation and for
each answer: what it returned, or the name of its error. Knows no file system.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_AT_FDCWD = -100


class User:
    """Keeps open files by number, and a place to come back to."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._files: dict[int, int] = {}
        self._libc = ctypes.CDLL(None, use_errno=True)

    def open(self, path: str, flags: int, mode: int, number: int) -> Any:
        # Never waits for the other end of a FIFO.
        opened = os.open(path, flags | os.O_NONBLOCK, mode)
        if number in self._files:
            os.close(self._files.pop(number))
        self._files[number] = opened
        return _shown(os.fstat(opened))

    def write(self, number: int, size: int) -> Any:
        return os.write(self._file(number), b"x" * size)

    def read(self, number: int) -> Any:
        return len(os.pread(self._file(number), 100_000, 0))

    def fstat(self, number: int) -> Any:
        return _shown(os.fstat(self._file(number)))

    def ftruncate(self, number: int, size: int) -> Any:
        os.ftruncate(self._file(number), size)

    def fchmod(self, number: int, mode: int) -> Any:
        os.fchmod(self._file(number), mode)

    def close(self, number: int) -> Any:
        os.close(self._files.pop(number, -1))

    def rename(self, old: str, new: str, flags: int) -> Any:
        done = self._libc.renameat2(_AT_FDCWD, old.encode(), _AT_FDCWD, new.encode(), flags)
        if done < 0:
            raise OSError(ctypes.get_errno(), "")

    def link(self, old: str, new: str) -> Any:
        os.link(old, new, follow_symlinks=False)

    def listdir(self, path: str) -> Any:
        return sorted(os.listdir(path))

    def lstat(self, path: str) -> Any:
        return _shown(os.lstat(path))

    def stat(self, path: str) -> Any:
        return _shown(Path(path).stat())

    def chown(self, path: str, uid: int, gid: int) -> Any:
        os.lchown(path, uid, gid)

    def utime(self, path: str, seconds: int | None) -> Any:
        if seconds is None:
            os.utime(path)
            return None
        os.utime(path, ns=(seconds * 10**9 + 1, seconds * 10**9 + 7))
        found = Path(path).stat()
        return found.st_atime_ns, found.st_mtime_ns

    def setxattr(self, path: str, name: str, value: str) -> Any:
        os.setxattr(path, name, bytes.fromhex(value))

    def listxattr(self, path: str) -> Any:
        return [(name, os.getxattr(path, name).hex()) for name in sorted(os.listxattr(path))]

    def chdir(self, path: str) -> Any:
        os.chdir(path or self._directory)

    def tree(self) -> Any:
        """All there is."""
        os.chdir(self._directory)
        found = []
        for directory, folders, files in os.walk("."):
            for name in (*folders, *files):
                path = Path(directory, name)
                attributes = [] if path.is_symlink() else self.listxattr(str(path))
                found.append((str(path), _shown(path.lstat()), attributes))
        return sorted(found)

    def _file(self, number: int) -> int:
        return self._files.get(number, -1)


def _shown(found: os.stat_result) -> Any:
    size = None if stat.S_ISDIR(found.st_mode) else found.st_size
    return oct(found.st_mode), found.st_nlink, found.st_uid, found.st_gid, size


def main() -> None:
    """Ends when nobody can ask any more."""
    uid, gid, groups, directory = json.loads(sys.argv[1])
    os.chdir(directory)
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    user = User(directory)
    for line in sys.stdin:
        name, *words = json.loads(line)
        call: Callable[..., Any] = getattr(user, name, None) or getattr(os, name)
        try:
            answer = call(*words)
        except OSError as error:
            answer = errno.errorcode.get(error.errno or 0, str(error))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
