# SPDX-License-Identifier: Apache-2.0
"""inotify(7) as values: one instance, one descriptor, no thread. Knows no file's meaning.

For what `agents.watch` (watchdog) cannot do: hundreds of directories on one descriptor, the
kernel's file systems, reads as well as changes, and watches that end with their first event.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import trio

from agents.errors import Unavailable

_HEADER = struct.Struct("iIII")
#: Room for a few thousand events; the kernel's own queue holds 16,384.
_READ_SIZE = 65536

_libc = ctypes.CDLL(None, use_errno=True)
_add_watch = _libc.inotify_add_watch
_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)


class Happening(enum.IntFlag):
    """What is asked for and what is told; the values are the kernel's."""

    READ = 0x1
    WRITTEN = 0x2
    OPENED = 0x20
    CREATED = 0x100
    DELETED = 0x200
    LOST = 0x4000
    ENDED = 0x8000
    ONLY_DIRECTORIES = 0x0100_0000
    DIRECTORY = 0x4000_0000
    ONCE = 0x8000_0000


@dataclass(frozen=True, slots=True)
class Event:
    """`watch` is the number that `Inotify.watch` gave, `what` a bit field of `Happening`.

    `LOST`: so many things happened that the kernel dropped some (`watch` is then -1). `ENDED`: this
    watch tells nothing any more.
    """

    watch: int
    what: int
    name: str


class Inotify:
    """One inotify instance, for the event loop. Raises Unavailable when the user has no more."""

    def __init__(self) -> None:
        self._descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise _unavailable("cannot watch files", ctypes.get_errno())

    def watch(self, path: Path, what: Happening) -> int:
        """Watch a file, or what is directly in a directory; the number of the watch, the same one
        for the same inode.

        Raises FileNotFoundError, and Unavailable when no more can be watched.
        """
        number: int = _add_watch(self._descriptor, os.fsencode(path), what)
        if number >= 0:
            return number
        code = ctypes.get_errno()
        if code in (errno.ENOENT, errno.ENOTDIR):
            raise FileNotFoundError(code, os.strerror(code), str(path))
        raise _unavailable(f"cannot watch {str(path)!r}", code)

    def forget(self, watch: int) -> None:
        """End a watch; nothing to do for one that has ended."""
        _libc.inotify_rm_watch(self._descriptor, watch)

    async def wait(self) -> None:
        """Until there is something to read."""
        await trio.lowlevel.wait_readable(self._descriptor)

    def read(self) -> list[Event]:
        """What happened since the last time; never waits."""
        events: list[Event] = []
        while True:
            try:
                data = os.read(self._descriptor, _READ_SIZE)
            except BlockingIOError:
                return events
            events += _parse(data)

    def close(self) -> None:
        if trio.lowlevel.in_trio_run():
            trio.lowlevel.notify_closing(self._descriptor)
        os.close(self._descriptor)


def _parse(data: bytes) -> list[Event]:
    events, at = [], 0
    while at < len(data):
        watch, what, _, length = _HEADER.unpack_from(data, at)
        at += _HEADER.size + length
        name = data[at - length : at].rstrip(b"\0")
        events.append(Event(watch, what, os.fsdecode(name)))
    return events


_REMEDIES = {
    errno.EMFILE: "raise fs.inotify.max_user_instances",
    errno.ENOSPC: "raise fs.inotify.max_user_watches",
}


def _unavailable(what: str, code: int) -> Unavailable:
    return Unavailable(f"{what}: {os.strerror(code)}", remedy=_REMEDIES.get(code))
