# SPDX-License-Identifier: Apache-2.0
"""Calls to the file system below: in place while it is quick, in a thread once it was slow.

A hop to a thread and back costs as much as a whole request, and local directories answer from
memory nearly always. So a call runs in place until one took longer than `SLOW_S`; for the next
`WARY_S` everything goes through threads, and one slow file does not hold up the others.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from typing import TypeVar

import trio

SLOW_S = 0.02
WARY_S = 10.0

T = TypeVar("T")


class Storage:
    """One for each file system below."""

    def __init__(self) -> None:
        self._wary_until = 0.0

    async def call(self, function: Callable[[], T]) -> T:
        """`function` may block, and changes nothing but the file system."""
        started = time.monotonic()
        if started < self._wary_until:
            return await trio.to_thread.run_sync(function)
        try:
            return function()
        finally:
            now = time.monotonic()
            if now - started > SLOW_S:
                self._wary_until = now + WARY_S

    async def slow(self, function: Callable[[], T]) -> T:
        """For what is slow by nature, such as fsync."""
        return await trio.to_thread.run_sync(function)

    async def read(self, descriptor: int, size: int, offset: int) -> bytes | memoryview:
        """`size` bytes, fewer only at the end of the file: from memory in place, else by thread."""
        buffer = bytearray(size)
        try:
            got = os.preadv(descriptor, [buffer], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            got = 0
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            # tmpfs and the like have no such flag, and never wait.
            return await self.call(lambda: os.pread(descriptor, size, offset))
        if got == size or offset + got >= os.fstat(descriptor).st_size:
            return memoryview(buffer)[:got]
        # A short answer would mean end of file to the kernel; only part of it was in memory.
        rest = await self.slow(lambda: os.pread(descriptor, size - got, offset + got))
        return bytes(buffer[:got]) + rest
