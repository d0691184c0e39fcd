# SPDX-License-Identifier: Apache-2.0
"""Which process a pid is now, and which container it is in: procfs, looked at as seldom as is safe.

Knows no GPU and no allocation. What a process says of itself (its mounts, its environment) plays no
part: `agents.container_cgroups` reads its cgroup, which it cannot leave without the host's rights.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from agents import container_cgroups
from agents.container_cgroups import ContainerCgroup
from agents.hostfs import HostFs
from agents.processes import parse_stat, speaking_thread
from gpu_plugin.accounting import Origin

#: A runtime starts its first process outside of the container's cgroup and moves it there before
#: the container's program runs; nobody else moves one. So what was read is read again (seconds).
_AGAIN_S = 5.0
_HOST_AGAIN_S = 1.0
_AT_ONCE = 8192


@dataclass(slots=True)
class _Known:
    origin: Origin
    looked_at: float


class ProcessOrigins:
    """By (pid, start time): a pid that was given to another process is looked at anew. Blocking;
    of one thread.
    """

    def __init__(self, host: HostFs, clock: Callable[[], float] = time.monotonic) -> None:
        self._proc = os.fspath(host.proc)
        self._clock = clock
        self._known: dict[int, _Known] = {}
        self._node_root: str | None = None

    def of(self, pids: Iterable[int]) -> dict[int, Origin]:
        """Those that run and could be read; all others are unknown."""
        now = self._clock()
        found = {pid: known for pid in set(pids) if (known := self._look(pid, now)) is not None}
        self._known = found
        return {pid: known.origin for pid, known in found.items()}

    def look(self, pid: int) -> Origin | None:
        """One process, now; None: it does not run, or cannot be read."""
        known = self._look(pid, self._clock())
        return None if known is None else known.origin

    def _look(self, pid: int, now: float) -> _Known | None:
        try:
            stat = parse_stat(_read(f"{self._proc}/{pid}/stat"))
            if stat is None:
                return None
            known = self._known.get(pid)
            if known is not None and known.origin.key == stat.key and now < _due(known):
                if known.origin.command != stat.command:  # it runs another program now
                    origin = Origin(stat.key, known.origin.place, stat.command)
                    return _Known(origin, known.looked_at)
                return known
            text = self._cgroup(pid, leader_ended=stat.leader_ended)
            after = parse_stat(_read(f"{self._proc}/{pid}/stat"))
        except OSError:
            return None
        if after is None or after.key != stat.key:
            return None  # the cgroup may be that of the next process with this pid
        place = container_cgroups.find(text, self._root())
        return _Known(Origin(stat.key, place, stat.command), now)

    def _cgroup(self, pid: int, *, leader_ended: bool) -> str:
        """Of a process without its first thread, what one of the others tells."""
        if not leader_ended:
            return os.fsdecode(_read(f"{self._proc}/{pid}/cgroup"))
        thread = speaking_thread(Path(self._proc), pid)
        if thread is None:
            raise ProcessLookupError
        return os.fsdecode(_read(f"{self._proc}/{pid}/task/{thread}/cgroup"))

    def _root(self) -> str:
        """The node's cgroup, told by where this process itself is."""
        if self._node_root is None:
            try:
                text = os.fsdecode(_read(f"{self._proc}/self/cgroup"))
            except OSError:
                text = ""
            self._node_root = container_cgroups.node_root(text)
        return self._node_root


def _due(known: _Known) -> float:
    in_container = isinstance(known.origin.place, ContainerCgroup)
    return known.looked_at + (_AGAIN_S if in_container else _HOST_AGAIN_S)


def _read(path: str) -> bytes:
    """The whole file; a third of the time that `pathlib` takes, for hundreds of them a second."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = piece = os.read(descriptor, _AT_ONCE)
        while len(piece) == _AT_ONCE:  # procfs gives as much as there is
            piece = os.read(descriptor, _AT_ONCE)
            text += piece
        return text
    finally:
        os.close(descriptor)
