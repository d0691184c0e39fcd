# SPDX-License-Identifier: Apache-2.0
"""What pyfuse3 uses of trio, so that the next request of a busy caller is waited for in place: that
halves what a request costs. Knows no file system.

pyfuse3 looks these names up in its own `trio`, which may be another module than trio (that is how
its asyncio mode works).
"""

from __future__ import annotations

import select
from collections.abc import Callable
from types import TracebackType

import trio

#: Whoever goes on asking comes back within this; other tasks wait so long at most.
_LINGER_MS = 2
#: Even when requests never stop, other tasks get their turn.
_TURN = 64


class NoLock:
    """For a task that is alone."""

    async def __aenter__(self) -> None:
        return

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return


class Lock:
    """Whoever finds it free has it without a turn of the event loop, even before those who wait:
    they come when the one who serves requests has to wait for something himself.
    """

    def __init__(self) -> None:
        self._held = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        while self._held:
            await self._waiting.park()
        self._held = True

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._held = False
        self._waiting.unpark()


class _LowLevel:
    """`trio.lowlevel`."""

    current_task = staticmethod(trio.lowlevel.current_task)
    current_trio_token = staticmethod(trio.lowlevel.current_trio_token)
    notify_closing = staticmethod(trio.lowlevel.notify_closing)

    def __init__(self, after_reply: Callable[[], None], busy: Callable[[], bool]) -> None:
        self._after_reply = after_reply
        self._busy = busy
        self._poll: select.poll | None = None
        self._served = 0

    async def wait_readable(self, descriptor: int) -> None:
        """As trio's, but looks in place first. There is one descriptor, the session's."""
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(descriptor, select.POLLIN)
        self._after_reply()
        busy = self._busy()
        if not self._poll.poll(0 if busy else _LINGER_MS):
            await trio.lowlevel.wait_readable(descriptor)
            return
        self._served += 1
        if busy or self._served % _TURN == 0:
            await trio.lowlevel.checkpoint()


class SingleTask:
    """To be put in the place of trio for handlers that never wait: one task takes every request.

    `after_reply` is called before each request is waited for; it must not raise. What it prepares
    costs the caller nothing, who is being woken meanwhile.
    """

    Lock: type[NoLock | Lock] = NoLock
    ClosedResourceError = trio.ClosedResourceError
    open_nursery = staticmethod(trio.open_nursery)
    most_tasks = 1

    def __init__(self, after_reply: Callable[[], None]) -> None:
        self.lowlevel = _LowLevel(after_reply, lambda: False)


class ManyTasks:
    """To be put in the place of trio for handlers that mostly answer at once. `busy` says whether
    one of them waits for something else: then nobody lingers, so that it goes on at once.
    """

    Lock: type[NoLock | Lock] = Lock
    ClosedResourceError = trio.ClosedResourceError
    open_nursery = staticmethod(trio.open_nursery)
    #: What pyfuse3 has by default: requests that may be in work at once.
    most_tasks = 99

    def __init__(self, busy: Callable[[], bool]) -> None:
        self.lowlevel = _LowLevel(_nothing, busy)


def _nothing() -> None:
    return
