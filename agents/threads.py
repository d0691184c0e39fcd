# SPDX-License-Identifier: Apache-2.0
"""Blocking calls off the event loop, never awaited without a limit. Knows nothing of what is
called.
"""

from __future__ import annotations

import ctypes
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TypeVar

import trio

from agents.errors import Unavailable

T = TypeVar("T")

#: Of malloc.h, for mallopt(3).
_M_ARENA_MAX = -8


def share_heaps() -> None:
    """Before the first thread starts. glibc gives each thread a heap of its own, eight for each
    CPU: with the threads that come and go in an agent that is some MiB, and of no use where one
    thread runs at a time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 2)


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


class ThreadLane:
    """The same for callers that are threads themselves, several at once: none waits longer than
    its limit, and while a call that outlived it is still out, further calls fail at once.

    Its threads stay for a while: to start one takes longer than most of what it is for.
    """

    def __init__(self, what: str, *, remedy: str | None = None, idle_s: float = 10.0) -> None:
        self._what, self._remedy, self._idle_s = what, remedy, idle_s
        self._lock = threading.Lock()
        self._late: dict[object, float] = {}
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._idle = 0

    def call(
        self,
        function: Callable[[], T],
        *,
        timeout_s: float,
        undo: Callable[[T], object] = lambda result: None,
    ) -> T:
        """Run in another thread. Raises Unavailable after `timeout_s`; `undo` gets the result
        that came too late for anybody to have it.
        """
        with self._lock:
            since = min(self._late.values(), default=None)
        if since is not None:
            text = f"{self._what} has not answered for {time.monotonic() - since:.0f} s"
            raise Unavailable(text, remedy=self._remedy)
        started = time.monotonic()
        future: Future[T] = Future()
        self._hand_over(lambda: self._run(future, function, undo))
        with suppress(TimeoutError):
            return future.result(timeout_s)
        with self._lock:
            # Under the lock, so that the thread finds itself among the late ones when it is late.
            if future.cancel():
                self._late[future] = started
        if not future.cancelled():
            return future.result()
        raise Unavailable(
            f"{self._what} did not answer within {timeout_s:g} s", remedy=self._remedy
        )

    def _hand_over(self, work: Callable[[], None]) -> None:
        """To a thread that has nothing to do, or to a new one."""
        with self._lock:
            waiting = self._idle > 0
            if waiting:
                self._idle -= 1
                self._work.put(work)
        if not waiting:
            # A daemon: a call that never comes back must not keep the process from ending.
            threading.Thread(target=self._live, args=[work], name=self._what, daemon=True).start()

    def _live(self, first: Callable[[], None]) -> None:
        work: Callable[[], None] | None = first
        while work is not None:
            work()
            with self._lock:
                self._idle += 1
            work = self._next()

    def _next(self) -> Callable[[], None] | None:
        """None: nothing came for long, and this thread is not counted on any more."""
        while True:
            with suppress(Empty):
                return self._work.get(timeout=self._idle_s)
            with self._lock:
                if self._work.empty():  # else it came in this moment, for one of those that wait
                    self._idle -= 1
                    return None

    def _run(
        self, future: Future[T], function: Callable[[], T], undo: Callable[[T], object]
    ) -> None:
        try:
            result = function()
            try:
                future.set_result(result)
            except InvalidStateError:
                undo(result)
        except BaseException as error:  # noqa: BLE001 -- the caller's, unless it left
            with suppress(InvalidStateError):
                future.set_exception(error)
        finally:
            with self._lock:
                self._late.pop(future, None)
