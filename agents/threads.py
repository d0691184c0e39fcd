# SPDX-License-Identifier: Apache-2.0
"""Blocking calls off the event loop, never awaited without a limit. Knows nothing of what is
called.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import trio

from agents.errors import Unavailable

T = TypeVar("T")


class Worker:
    """One lane for one slow outside thing (NVML, a runtime socket): at most one call at a time, and
    while a call that outlived its limit is still out, further calls fail at once instead of piling
    up threads."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._limiter = trio.CapacityLimiter(1)
        self._stuck_since: float | None = None

    @property
    def stuck_s(self) -> float:
        """For how long an abandoned call has been out; 0 when none is."""
        return 0.0 if self._stuck_since is None else trio.current_time() - self._stuck_since

    async def call(self, function: Callable[[], T], *, timeout_s: float = math.inf) -> T:
        """Run in a worker thread.

        Raises Unavailable after `timeout_s` (the thread is left behind).
        """
        if self._stuck_since is not None:
            if self._limiter.borrowed_tokens:
                raise Unavailable(f"{self._what} has not answered for {self.stuck_s:.0f} s")
            self._stuck_since = None
        started = trio.current_time()
        with trio.move_on_after(timeout_s):
            return await trio.to_thread.run_sync(
                function, abandon_on_cancel=True, limiter=self._limiter
            )
        if self._limiter.borrowed_tokens:
            self._stuck_since = started
        raise Unavailable(f"{self._what} did not answer within {timeout_s:g} s")
