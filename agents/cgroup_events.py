# SPDX-License-Identifier: Apache-2.0
"""What happens in the cgroup trees, as it happens: cgroups made and removed, limits set.

By inotify on every directory of every hierarchy that limits: the kernel tells the writes of others
to cgroup files, whichever mount they come through, and rmdir as well, but it does not end the watch
of a directory that is gone. Knows no container, and reads no cgroup's files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import trio

from agents.hostfs import HostFs
from agents.inotify import Event, Happening, Inotify

#: Files that limit what a cgroup may use, v1's and v2's. Everything else that is written into a
#: cgroup (processes that are moved, counters that are reset) says nothing about limits.
LIMIT_FILES = frozenset(
    {
        "cpu.cfs_period_us",
        "cpu.cfs_quota_us",
        "cpu.max",
        "cpuset.cpus",
        "cpuset.cpus.partition",
        "memory.high",
        "memory.limit_in_bytes",
        "memory.max",
        "memory.memsw.limit_in_bytes",
        "memory.swap.max",
        "memory.swappiness",
    }
)

_WATCHED = Happening.CREATED | Happening.DELETED | Happening.WRITTEN | Happening.ONLY_DIRECTORIES

#: A container that starts makes a dozen events, a resize several: they are told together.
_TOGETHER_S = 0.03


@dataclass(frozen=True, slots=True)
class CgroupChanges:
    """Paths below the root of their hierarchy, as in `/proc/<pid>/cgroup`.

    `lost`: the kernel dropped events, so that anything may have changed.
    """

    created: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    limited: frozenset[str] = frozenset()
    lost: bool = False

    def limits(self, path: str) -> bool:
        """Whether a limit may have changed that holds for this cgroup: its own or one above."""
        return self.lost or any(
            path == limited or path.startswith(limited.rstrip("/") + "/")
            for limited in self.limited
        )


def hierarchies(cgroup: Path) -> tuple[Path, ...]:
    """The roots of the trees in which memory, CPU time and CPUs are limited."""
    v1 = [cgroup / name for name in ("memory", "cpu", "cpuset")]
    unified = [
        at
        for at in (cgroup, cgroup / "unified")
        if (at / "cgroup.controllers").exists() and (at / "cgroup.controllers").read_text().strip()
    ]
    return (*(at for at in v1 if at.is_dir()), *unified)


class CgroupEvents:
    """Watches from `start` on. Raises Unavailable when this user cannot watch so many directories:
    then everything must be polled.
    """

    def __init__(self, host: HostFs) -> None:
        self._roots = hierarchies(host.cgroup)
        self._inotify = Inotify()
        self._places: dict[int, tuple[Path, Path]] = {}
        self._watches: dict[Path, int] = {}

    def start(self) -> None:
        """Watch all that is there now. Blocking: it goes through the whole trees."""
        for root in self._roots:
            for _ in self._descend(root, root):
                pass

    async def changes(self) -> CgroupChanges:
        """Wait for the next ones."""
        while True:
            await self._inotify.wait()
            await trio.sleep(_TOGETHER_S)
            found = self._told(self._inotify.read())
            if found != CgroupChanges():
                return found

    def close(self) -> None:
        self._inotify.close()

    def _told(self, events: Iterable[Event]) -> CgroupChanges:
        created: set[str] = set()
        removed: set[str] = set()
        limited: set[str] = set()
        lost = False
        for event in events:
            if event.what & Happening.LOST:
                lost = True
                self._watch_anew()
            elif event.watch in self._places:
                root, directory = self._places[event.watch]
                place = directory / event.name
                if event.what & Happening.WRITTEN:
                    if event.name in LIMIT_FILES:
                        limited.add(_below(root, directory))
                elif event.what & Happening.DELETED:
                    removed.add(_below(root, place))
                    self._forget(place)
                elif event.what & Happening.DIRECTORY:
                    created.update(_below(root, new) for new in self._descend(root, place))
        return CgroupChanges(frozenset(created), frozenset(removed), frozenset(limited), lost)

    def _watch_anew(self) -> None:
        """Nobody told which directories are gone, or have become others."""
        for directory in [*self._watches]:
            self._forget(directory)
        self.start()

    def _descend(self, root: Path, directory: Path) -> Iterator[Path]:
        """Watch a directory and all below it. First the watch, then the look: what is made in
        between is found by both."""
        try:
            watch = self._inotify.watch(directory, _WATCHED)
            with os.scandir(directory) as entries:
                inner = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:  # removed meanwhile
            return
        self._places[watch] = root, directory
        self._watches[directory] = watch
        yield directory
        for name in inner:
            yield from self._descend(root, directory / name)

    def _forget(self, directory: Path) -> None:
        watch = self._watches.pop(directory, None)
        if watch is not None:
            self._places.pop(watch, None)
            self._inotify.forget(watch)


def _below(root: Path, directory: Path) -> str:
    inner = directory.relative_to(root)
    return "/" if inner == Path() else f"/{inner}"
