# SPDX-License-Identifier: Apache-2.0
"""Put bytes into the memory of a thread that waits for its answer. Knows no notification: whoever
calls has made sure that the thread still waits, and does so again afterwards.

By process_vm_writev(2), and not by `/proc/<pid>/mem`, which would also write where the thread
itself may not.
"""

from __future__ import annotations

import ctypes
import enum
import errno


class Written(enum.Enum):
    """How it went."""

    DONE = "done"
    #: There is no such memory, or it may not be written: the kernel would say EFAULT.
    BAD_ADDRESS = "bad address"
    GONE = "gone"
    #: We may not (no CAP_SYS_PTRACE over the thread's user namespace, or a security module).
    REFUSED = "refused"


class _Piece(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


_write = ctypes.CDLL(None, use_errno=True).process_vm_writev
_write.restype = ctypes.c_ssize_t
_write.argtypes = (
    ctypes.c_int,
    ctypes.POINTER(_Piece),
    ctypes.c_ulong,
    ctypes.POINTER(_Piece),
    ctypes.c_ulong,
    ctypes.c_ulong,
)


def write(pid: int, address: int, data: bytes) -> Written:
    """All of it, or not to be counted on. May wait for as long as whoever provides the memory lets
    it: a page of a file system that hangs, a userfaultfd."""
    buffer = ctypes.create_string_buffer(data, len(data))
    ours = _Piece(ctypes.addressof(buffer), len(data))
    theirs = _Piece(address, len(data))
    count = _write(pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)
    if count == len(data):
        return Written.DONE
    if count >= 0:
        return Written.BAD_ADDRESS
    return _FAILED.get(ctypes.get_errno(), Written.REFUSED)


_FAILED = {errno.EFAULT: Written.BAD_ADDRESS, errno.ESRCH: Written.GONE}
