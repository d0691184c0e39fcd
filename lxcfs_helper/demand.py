# SPDX-License-Identifier: Apache-2.0
"""Who reads: in which containers files of ours were opened or read, as the kernel tells it.

One watch on each container's directory, which ends with its first event and is renewed on the next
heartbeat: a reader pays for one event a heartbeat, however often it reads, and the queue cannot
overflow. The kernel tells what is read through a mount in the container, and through descriptors
that are kept open. Knows no container but its id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import trio

from agents.errors import Unavailable
from agents.inotify import Event, Happening, Inotify

_READ = Happening.OPENED | Happening.READ | Happening.ONCE | Happening.ONLY_DIRECTORIES

#: Events of several containers that begin to read together are told together.
_TOGETHER_S = 0.01


class Demand(Protocol):
    """Which containers read their files."""

    def expect(self, container_id: str, directory: Path) -> None:
        """Tell the next read of anything in this directory. Raises Unavailable when nothing more
        can be watched."""

    async def readers(self) -> frozenset[str]:
        """Wait until one of those that were expected reads; each is told once."""

    def close(self) -> None: ...


class WatchedDemand:
    """`Demand` by inotify. Raises Unavailable when this user can watch nothing more."""

    def __init__(self, make: Callable[[], Inotify] = Inotify) -> None:
        self._inotify = make()
        self._expected: dict[int, tuple[str, Path]] = {}

    def expect(self, container_id: str, directory: Path) -> None:
        try:
            watch = self._inotify.watch(directory, _READ)
        except FileNotFoundError:  # removed meanwhile, and nobody's any more
            return
        self._expected[watch] = container_id, directory

    async def readers(self) -> frozenset[str]:
        while True:
            await self._inotify.wait()
            await trio.sleep(_TOGETHER_S)
            found = self._told(self._inotify.read())
            if found:
                return found

    def _told(self, events: Iterable[Event]) -> frozenset[str]:
        found = set()
        for event in events:
            expected = self._expected.get(event.watch)
            if event.what & Happening.ENDED:
                self._expected.pop(event.watch, None)
            elif expected is not None:
                container_id, directory = expected
                if event.what & Happening.DIRECTORY or event.name.startswith("."):
                    # Our own work: a container is shown neither. The watch ended with it.
                    try:
                        self.expect(container_id, directory)
                    except Unavailable:
                        found.add(container_id)  # taken as read: nobody would tell
                else:
                    found.add(container_id)
        return frozenset(found)

    def close(self) -> None:
        self._inotify.close()
