# SPDX-License-Identifier: Apache-2.0
"""Replaces a small file in one step, again and again: a reader has the old content or the new one,
never a part, and where the new one cannot be written (a full disk) the old one stays.

Nothing waits for the disk: after a power cut the file may be empty, so whoever writes it must write
it again. By exchange (renameat2, kernel 3.15), not by rename: ext4 writes a file out to the disk at
once when it is renamed over another one, which costs ten times as much, and wears the disk.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os

_RENAME_EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)


def replace_file(directory: int, name: str, data: bytes, *, mode: int, scratch: str) -> None:
    """In the directory behind a descriptor. `scratch` is a name in it that nobody else uses; it is
    there only meanwhile, or after a crash. Raises OSError.
    """
    descriptor = _create(directory, scratch, mode)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            os.fchmod(descriptor, mode)  # whatever our umask
            left = memoryview(data)
            while left:
                left = left[file.write(left) or 0 :]
        if not _exchange(directory, scratch, name):
            os.rename(scratch, name, src_dir_fd=directory, dst_dir_fd=directory)
            return
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(scratch, dir_fd=directory)
        raise
    os.unlink(scratch, dir_fd=directory)


def _create(directory: int, name: str, mode: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, mode, dir_fd=directory)
    except FileExistsError:
        # Left by a former attempt. Not written into: it may be a link to what others have too.
        os.unlink(name, dir_fd=directory)
        return os.open(name, flags, mode, dir_fd=directory)


def _exchange(directory: int, one: str, other: str) -> bool:
    """False: there is no other, or this file system cannot exchange."""
    call = getattr(_libc, "renameat2", None)
    if call is None:
        return False
    names = (os.fsencode(one), os.fsencode(other))
    if call(directory, names[0], directory, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOENT, errno.EINVAL, errno.ENOSYS):
        return False
    raise OSError(number, os.strerror(number), other)
