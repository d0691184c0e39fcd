# SPDX-License-Identifier: Apache-2.0
"""openat2(2): to open a path without following where it must not lead. Kernel 5.6.

Knows no file. The number of the call is the same on every architecture.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os

_SYS_OPENAT2 = 437


class Resolve(enum.IntFlag):
    """Which steps the kernel refuses (`RESOLVE_…`); `IN_ROOT`: no step leads out of the directory,
    absolute links and `..` begin and end there.
    """

    NO_XDEV = 0x01
    NO_MAGICLINKS = 0x02
    NO_SYMLINKS = 0x04
    BENEATH = 0x08
    IN_ROOT = 0x10


class _OpenHow(ctypes.Structure):
    _fields_ = [
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    ]


def openat2(directory: int, path: str, flags: int, resolve: Resolve) -> int:
    """A descriptor, close-on-exec. Raises OSError: ELOOP for a link, EXDEV for another mount,
    ENOSYS on an older kernel.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, 0, int(resolve))
    libc = ctypes.CDLL(None, use_errno=True)
    while True:
        result = libc.syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_long(directory),
            os.fsencode(path),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if result >= 0:
            return int(result)
        number = ctypes.get_errno()
        if number != errno.EAGAIN:  # a rename raced with the look-up: ask again
            raise OSError(number, os.strerror(number), path)
