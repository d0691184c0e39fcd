# SPDX-License-Identifier: Apache-2.0
"""Triggers of pressure files: a reader writes one, polls, and is woken when it fires.

The kernel watches the container's own file through a descriptor of ours. As we are root it would
allow us windows of any length; readers get what it allows everybody. A trigger is waited for by
poll(2) in a thread of its own: looking at it uses the event up, so an event loop would lose it.
Knows no FUSE but the handle that wakes a poll.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from pathlib import Path
from typing import Protocol

import trio

from agents.errors import FsError

#: What the kernel says of such a file whether or not anything happened (DEFAULT_POLLMASK).
ALWAYS = select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM
#: The kernel's rule for whoever lacks CAP_SYS_RESOURCE, in microseconds.
_WINDOW_US = 2_000_000
#: Of all containers together: each is work for the kernel, and a thread here.
_MOST = 64


class Waiter(Protocol):
    """Somebody who polls."""

    def notify(self) -> None:
        """Wake him. Raises OSError when he is gone."""


class _Trigger:
    """`descriptor` is the kernel's file; `stop` ends the thread, which closes both."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.stop = os.eventfd(0, os.EFD_CLOEXEC)
        self.fired = False
        self.waiter: Waiter | None = None


class Triggers:
    """By number of the open file that they were written to."""

    def __init__(self) -> None:
        self._by_handle: dict[int, _Trigger] = {}

    def set(self, handle: int, file: Path, text: bytes) -> None:
        """Such as `some 150000 2000000` (stall and window in microseconds). Raises OSError, as the
        kernel does for what is wrong, and FsError. To be called in the event loop."""
        if handle in self._by_handle:
            raise FsError(errno.EBUSY, "there is a trigger already")
        if len(self._by_handle) >= _MOST:
            raise FsError(errno.ENOSPC, "too many triggers")
        words = text.strip(b"\0\n ").split()
        if len(words) == 3 and words[2].isdigit() and int(words[2]) % _WINDOW_US:
            raise FsError(errno.EINVAL, "a window is a multiple of 2 s")
        descriptor = os.open(file, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(descriptor, text)
        except BaseException:
            os.close(descriptor)
            raise
        trigger = self._by_handle[handle] = _Trigger(descriptor)
        token = trio.lowlevel.current_trio_token()
        threading.Thread(target=_wait, args=(trigger, token), daemon=True).start()

    def poll(self, handle: int, waiter: Waiter | None) -> int:
        """What is ready; `waiter` is told of the next time it fires."""
        trigger = self._by_handle.get(handle)
        if trigger is None:
            return ALWAYS
        if trigger.fired:
            trigger.fired = False
            return ALWAYS | select.POLLPRI
        trigger.waiter = waiter or trigger.waiter
        return ALWAYS

    def drop(self, handle: int) -> None:
        """The file was closed."""
        trigger = self._by_handle.pop(handle, None)
        if trigger is not None:
            os.eventfd_write(trigger.stop, 1)


def _wait(trigger: _Trigger, token: trio.lowlevel.TrioToken) -> None:
    """The thread of one trigger."""
    poll = select.poll()
    poll.register(trigger.stop, select.POLLIN)
    poll.register(trigger.descriptor, select.POLLPRI)
    while True:
        events = dict(poll.poll())
        if trigger.stop in events:
            break
        try:
            token.run_sync_soon(_happened, trigger)
        except trio.RunFinishedError:
            break
        if events[trigger.descriptor] & select.POLLERR:  # its cgroup is gone: nothing more comes
            poll.unregister(trigger.descriptor)
    os.close(trigger.descriptor)
    os.close(trigger.stop)


def _happened(trigger: _Trigger) -> None:
    trigger.fired = True
    waiter, trigger.waiter = trigger.waiter, None
    if waiter is not None:
        try:
            waiter.notify()
        except OSError:
            return  # he has closed it meanwhile
