# SPDX-License-Identifier: Apache-2.0
"""The few system calls that Python does not have. Every one raises OSError; none knows an inode."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_AT_FDCWD = -100
_UTIME_OMIT = (1 << 30) - 2
_PR_SET_SECUREBITS = 28
_NO_SETUID_FIXUP = 1 << 2

_libc = ctypes.CDLL(None, use_errno=True)


class Caller(Protocol):
    """Who makes a request."""

    @property
    def uid(self) -> int: ...

    @property
    def gid(self) -> int: ...


class _Timespec(ctypes.Structure):
    _fields_ = [("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long)]


def keep_capabilities() -> None:
    """Let `as_caller` change the owner of new files only. Per thread, inherited by later threads.

    The kernel in front has checked the caller's permission; what is left to us is the work, and
    that must not fail because the caller's supplementary groups are not ours.
    """
    _checked(_libc.prctl(_PR_SET_SECUREBITS, _NO_SETUID_FIXUP, 0, 0, 0))


@contextmanager
def as_caller(caller: Caller) -> Iterator[None]:
    """What this thread creates meanwhile is born with the caller's owner and group.

    Both calls are per thread and cannot fail for root; `await` nothing inside.
    """
    _libc.setfsgid(caller.gid)
    _libc.setfsuid(caller.uid)
    try:
        yield
    finally:
        _libc.setfsuid(os.geteuid())
        _libc.setfsgid(os.getegid())


def rename(
    old: bytes, new: bytes, *, old_directory: int, new_directory: int, flags: int = 0
) -> None:
    """renameat2(2)."""
    _checked(_libc.renameat2(old_directory, old, new_directory, new, ctypes.c_uint(flags)))


def set_times(path: str, atime_ns: int | None, mtime_ns: int | None) -> None:
    """utimensat(2), following a last link; None leaves that time as it is."""
    times = (_Timespec * 2)(_timespec(atime_ns), _timespec(mtime_ns))
    _checked(_libc.utimensat(_AT_FDCWD, path.encode(), ctypes.byref(times), 0))


def _timespec(nanoseconds: int | None) -> _Timespec:
    if nanoseconds is None:
        return _Timespec(0, _UTIME_OMIT)
    return _Timespec(*divmod(nanoseconds, 1_000_000_000))


def _checked(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
