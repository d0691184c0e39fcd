# SPDX-License-Identifier: Apache-2.0
"""Calls to the file system below: in place while it is quick, in a thread once it was slow.

A hop to a thread and back costs as much as a whole request, and local directories answer from
memory nearly always. So a call runs in place until one took longer than `SLOW_S`; for the next
`WARY_S` everything goes through threads, and one slow file does not hold up the others. What is no
local file system always goes through threads: its first slow call may never come back.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import trio

from agents import mountinfo
from agents.mountinfo import MountEntry

SLOW_S = 0.02
WARY_S = 10.0
#: The most that the kernel asks for at once.
_MOST_READ = 1 << 20
#: Of 512 bytes: 64 MiB.
_MANY_BLOCKS = 1 << 17

#: File systems whose answers wait for nothing but a disk of this machine.
_LOCAL = frozenset({
    "bcachefs", "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "iso9660", "jfs",
    "nilfs2", "ntfs3", "overlay", "ramfs", "squashfs", "tmpfs", "udf", "vfat", "xfs", "zfs",
})  # fmt: skip

T = TypeVar("T")
R = TypeVar("R")


class Storage:
    """One for each file system below. `most_threads`: as many as there can be requests in work."""

    def __init__(self, most_threads: int = 99) -> None:
        #: Whether calls are in threads now, for which the event loop waits.
        self.busy = False
        #: Whether something that is served is no local file system.
        self.distant = False
        self._wary_until = 0.0
        self._threads = trio.CapacityLimiter(most_threads)
        self._in_threads = 0
        self._buffer = memoryview(bytearray(_MOST_READ))

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        """`function` may block, and changes nothing but the file system."""
        started = time.monotonic()
        if self.distant or started < self._wary_until:
            return await self.slow(function, *arguments)
        try:
            return function(*arguments)
        finally:
            now = time.monotonic()
            if now - started > SLOW_S:
                self._wary_until = now + WARY_S

    async def each(self, function: Callable[[T], R], items: Sequence[T]) -> Iterable[R]:
        """`function`, which never raises, of one after the other as they are asked for, and of none
        once that took long; or of all, by a thread: then it is a list.
        """
        if self.distant or time.monotonic() < self._wary_until:
            return await self.slow(lambda: [function(item) for item in items])
        return self._in_place(function, items)

    def _in_place(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        started = time.monotonic()
        for item in items:
            yield function(item)
            if time.monotonic() - started > SLOW_S:
                self._wary_until = time.monotonic() + WARY_S
                return

    async def close(self, descriptor: int) -> None:
        """With the last descriptor of a removed file its blocks are freed, which may take long."""
        if not self.distant:
            status = os.fstat(descriptor)
            if status.st_nlink or status.st_blocks <= _MANY_BLOCKS:
                os.close(descriptor)
                return
        await self.slow(os.close, descriptor)

    async def slow(self, function: Callable[..., T], *arguments: object) -> T:
        """For what is slow by nature, such as fsync."""
        self._in_threads += 1
        self.busy = True
        try:
            # Abandoned only when the connection is gone: then nobody waits for it any more.
            return await trio.to_thread.run_sync(
                function, *arguments, limiter=self._threads, abandon_on_cancel=True
            )
        finally:
            self._in_threads -= 1
            self.busy = self._in_threads > 0

    async def read(self, descriptor: int, size: int, offset: int) -> bytes | memoryview:
        """`size` bytes, fewer only at the end of the file: from memory in place, else by thread.

        A view is good until the next read: new memory for every answer would cost more than the
        bytes.
        """
        if self.distant or size > _MOST_READ:
            return await self.slow(os.pread, descriptor, size, offset)
        wanted = self._buffer[:size]
        try:
            got = os.preadv(descriptor, [wanted], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            got = 0
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            # tmpfs and the like have no such flag, and never wait.
            return await self.call(os.pread, descriptor, size, offset)
        if got == size or offset + got >= os.lseek(descriptor, 0, os.SEEK_END):
            return wanted[:got]
        # A short answer would mean end of file to the kernel; only part of it was in memory.
        begin = bytes(wanted[:got])
        return begin + await self.slow(os.pread, descriptor, size - got, offset + got)


def distant(table: Sequence[MountEntry], source: str) -> bool:
    """Whether something at or below this path is no local file system: a server, or a program that
    may never answer. Pure.
    """
    covering = mountinfo.covering(table, source)
    served = [*mountinfo.below(table, source), *([covering] if covering else [])]
    return not all(entry.fstype in _LOCAL for entry in served)
