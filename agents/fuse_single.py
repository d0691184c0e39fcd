# SPDX-License-Identifier: Apache-2.0
"""What pyfuse3 uses of trio, for a file system whose handlers never wait: one task takes every
request, so there is nobody to share the session with, and the next request of a busy reader is
waited for in place. That halves what a request costs. What a handler prepares after its reply costs
its caller nothing, who is being woken meanwhile. Knows no file system.

pyfuse3 looks these names up in its own `trio`, which may be another module than trio (that is how
its asyncio mode works).
"""

from __future__ import annotations

import select
from collections.abc import Callable
from types import TracebackType

import trio

#: A reader that goes on reading comes back within this; other tasks wait so long at most.
_LINGER_MS = 2
#: Even when requests never stop, other tasks get their turn.
_TURN = 64


class Lock:
    """Nobody else wants it."""

    async def __aenter__(self) -> None:
        return

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return


class _LowLevel:
    """`trio.lowlevel`."""

    current_task = staticmethod(trio.lowlevel.current_task)
    current_trio_token = staticmethod(trio.lowlevel.current_trio_token)
    notify_closing = staticmethod(trio.lowlevel.notify_closing)

    def __init__(self, after_reply: Callable[[], None]) -> None:
        self._after_reply = after_reply
        self._poll: select.poll | None = None
        self._served = 0

    async def wait_readable(self, descriptor: int) -> None:
        """As trio's, but looks in place first. There is one descriptor, the session's."""
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(descriptor, select.POLLIN)
        self._after_reply()
        if not self._poll.poll(_LINGER_MS):
            await trio.lowlevel.wait_readable(descriptor)
            return
        self._served += 1
        if self._served % _TURN == 0:
            await trio.lowlevel.checkpoint()


class SingleTask:
    """To be put in the place of trio. `after_reply` is called before each request is waited for; it
    must not raise."""

    Lock = Lock
    ClosedResourceError = trio.ClosedResourceError
    open_nursery = staticmethod(trio.open_nursery)

    def __init__(self, after_reply: Callable[[], None]) -> None:
        self.lowlevel = _LowLevel(after_reply)
