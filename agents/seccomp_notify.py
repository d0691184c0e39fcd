# SPDX-License-Identifier: Apache-2.0
"""Seccomp user notification as the kernel has it: one ioctl each (seccomp_unotify(2)). No policy.

Standard library only: the holder loads this file too. Numbers and layouts are those of
linux/seccomp.h, and the same on every architecture that we know (`_IOWR` of MIPS, PowerPC and
SPARC differs).

A caller waits in its call until somebody answers, for ever if need be: who has received a
notification must answer it. When the last descriptor of a filter is closed, its callers, and
whoever calls later, get ENOSYS.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from typing import NamedTuple

#: struct seccomp_notif, which has to be zero before it is received into.
NOTIFICATION_BYTES = 80
#: What the link of such a descriptor says in /proc/self/fd.
LINK = "anon_inode:seccomp notify"

_RECEIVE = 0xC050_2100
_SEND = 0xC018_2101
_IS_WAITING = 0x4008_2102
_SET_FLAGS = 0x4008_2104
_CONTINUE = 1
_WAKE_ON_SAME_CPU = 1

_notification = struct.Struct("=QIIiIQ6Q")
_response = struct.Struct("=QqiI")
_id = struct.Struct("=Q")

_libc = ctypes.CDLL(None, use_errno=True)
_ioctl = _libc.ioctl
_ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)


class Notification(NamedTuple):
    """A call that waits. `pid`: the calling thread, as our pid namespace numbers it (0: not in
    it). `number` and `architecture` (AUDIT_ARCH_…) belong together.
    """

    id: int
    pid: int
    number: int
    architecture: int
    arguments: tuple[int, ...]


def parse(received: bytes) -> Notification:
    """What the kernel wrote."""
    id_, pid, _, number, architecture, _, *arguments = _notification.unpack(received)
    return Notification(id_, pid, number, architecture, tuple(arguments))


def receive(descriptor: int, address: int) -> bool:
    """The next caller's notification, into zeroed memory. False: there was none after all (it was
    killed meanwhile), or a signal came.

    Blocks where nobody calls, whatever O_NONBLOCK says: ask poll(2) first, and be the only one who
    receives. Raises OSError.
    """
    if _ioctl(descriptor, _RECEIVE, address) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOENT, errno.EINTR):
        return False
    raise OSError(number, os.strerror(number))


def answer(descriptor: int, id_: int, value: int) -> bool:
    """The call returns `value`. False: nobody waits for it any more (killed, interrupted by a
    signal and asked again, or answered already). Raises OSError.
    """
    return _send(descriptor, id_, value, 0, 0)


def refuse(descriptor: int, id_: int, number: int) -> bool:
    """The call fails with this errno (positive). Otherwise as `answer`."""
    return _send(descriptor, id_, 0, -number, 0)


def proceed(descriptor: int, id_: int) -> bool:
    """The kernel does what was called for. Otherwise as `answer`."""
    return _send(descriptor, id_, 0, 0, _CONTINUE)


def _send(descriptor: int, id_: int, value: int, error: int, flags: int) -> bool:
    try:
        fcntl.ioctl(descriptor, _SEND, _response.pack(id_, value, error, flags))
    except FileNotFoundError:
        return False
    except OSError as failure:
        if failure.errno == errno.EINPROGRESS:  # answered already
            return False
        raise
    return True


def is_waiting(descriptor: int, id_: int) -> bool:
    """Whether the caller is in that very call at this moment: then its pid is its own, and not
    reused. It may be gone right after."""
    try:
        fcntl.ioctl(descriptor, _IS_WAITING, _id.pack(id_))
    except FileNotFoundError:
        return False
    return True


def wake_on_same_cpu(descriptor: int) -> bool:
    """Have callers and receiver take turns on one CPU, which is faster while both do. False: the
    kernel cannot (before 6.6).
    """
    try:
        fcntl.ioctl(descriptor, _SET_FLAGS, _WAKE_ON_SAME_CPU)
    except OSError:
        return False
    return True
