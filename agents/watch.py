# SPDX-License-Identifier: Apache-2.0
"""Directory changes as trio wake-ups: watchdog (inotify) with polling behind it. Knows no file's
meaning.

inotify misses events on some overlay and network set-ups, so a watcher always wakes at least every
`poll_s`; whoever is woken looks for himself what is different.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from agents.logs import get_logger

# It tells every inotify event at DEBUG, and at ERROR that one came while it was being stopped. What
# matters, that a directory cannot be watched, it raises.
logging.getLogger("watchdog").setLevel(logging.CRITICAL)

# Reading a file must not count as a change: whoever is woken reads, and would wake himself again.
_CHANGES = frozenset({"created", "modified", "deleted", "moved", "closed"})


class Wakeups:
    """`wait` returns when something changed since the last `wait`, or after the poll interval."""

    def __init__(self, poll_s: float) -> None:
        self._poll_s = poll_s
        self._changed = trio.Event()

    async def wait(self) -> bool:
        """Whether something changed (False: only the poll interval has passed)."""
        with trio.move_on_after(self._poll_s):
            await self._changed.wait()
        changed = self._changed.is_set()
        self._changed = trio.Event()
        return changed

    def wake(self) -> None:
        """From the event loop's own thread."""
        self._changed.set()


class _Handler(FileSystemEventHandler):
    def __init__(self, wakeups: Wakeups) -> None:
        self._wakeups = wakeups
        self._token = trio.lowlevel.current_trio_token()

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type not in _CHANGES:
            return
        try:
            self._token.run_sync_soon(self._wakeups.wake, idempotent=True)
        except trio.RunFinishedError:
            pass  # the loop ended while this event was on its way


@asynccontextmanager
async def watching(directories: Iterable[Path], *, poll_s: float) -> AsyncIterator[Wakeups]:
    """Watch directories (not below them). One that does not exist, or cannot be watched, is only
    polled.
    """
    wakeups = Wakeups(poll_s)
    observer = _observer(poll_s)
    if observer is None:
        yield wakeups
        return
    handler = _Handler(wakeups)
    for directory in directories:
        try:
            observer.schedule(handler, str(directory))
        except OSError as error:
            _say_why_not(error, directory, poll_s)
    try:
        yield wakeups
    finally:
        observer.stop()
        await trio.to_thread.run_sync(observer.join, 2.0, abandon_on_cancel=True)


def _observer(poll_s: float) -> BaseObserver | None:
    """Running; None when this user has as many inotify instances as the kernel gives him."""
    try:
        observer = Observer()
        observer.start()
    except OSError as error:
        _say_why_not(error, None, poll_s)
        return None
    return observer


def _say_why_not(error: OSError, directory: Path | None, poll_s: float) -> None:
    remedies = {
        errno.EMFILE: "; raise fs.inotify.max_user_instances",
        errno.ENOSPC: "; raise fs.inotify.max_user_watches",
        errno.ENOENT: "; make the directory, and restart the agent",
    }
    get_logger().warning(
        "directory watch unavailable",
        errno=error.errno,
        error=str(error),
        path=None if directory is None else str(directory),
        hint=f"changes are noticed within {poll_s:g} s{remedies.get(error.errno or 0, '')}",
    )
