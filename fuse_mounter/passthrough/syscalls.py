# SPDX-License-Identifier: Apache-2.0
"""The few system calls that Python does not have. Every one raises OSError; none knows an inode."""

from __future__ import annotations

import ctypes
import os

_AT_FDCWD = -100
_UTIME_OMIT = (1 << 30) - 2
_PR_SET_SECUREBITS = 28
_NO_SETUID_FIXUP = 1 << 2
_CAPABILITY_VERSION = 0x20080522
_CAP_SYS_RESOURCE = 24

_libc = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = [("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long)]


def keep_capabilities() -> None:
    """Let `set_creator` change the owner of new files only. Per thread, inherited by later threads.

    The kernel in front has checked the caller's permission; what is left to us is the work, and
    that must not fail because the caller's supplementary groups are not ours.
    """
    _checked(_libc.prctl(_PR_SET_SECUREBITS, _NO_SETUID_FIXUP, 0, 0, 0))


def give_up_resource_privilege() -> None:
    """Without CAP_SYS_RESOURCE quotas hold for what we write in the name of others, and the blocks
    that a file system reserves are not ours. Per thread, inherited by later threads.
    """
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    data = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice 32 bits
    _checked(_libc.capget(header, data))
    for position in range(3):
        data[position] &= ~(1 << _CAP_SYS_RESOURCE)
    _checked(_libc.capset(header, data))


def set_creator(uid: int, gid: int) -> tuple[int, int]:
    """In whose name this thread writes: new files are theirs. Returns who it was before. Cannot
    fail for root. Inherited by later threads.
    """
    before = _libc.setfsgid(gid)
    return _libc.setfsuid(uid), before


def sync(directory: int) -> None:
    """syncfs(2): what the kernel holds of the file system of this descriptor is written."""
    _checked(_libc.syncfs(directory))


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
