# SPDX-License-Identifier: Apache-2.0
"""Who has a mount namespace of his own on this node: one process for each, found in /proc alone.

Every container has one, whoever started it. Names are not asked for here. Reading only; blocking,
for a worker thread.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from agents import processes
from agents.hostfs import HostFs
from agents.processes import ProcessKey

#: Of a namespace with many processes, so many are asked when they started.
_MOST = 32


@dataclass(frozen=True, slots=True)
class Inhabitant:
    """`namespace`: inode of a mount namespace. `process`: its first one, as far as can be told."""

    namespace: int
    process: ProcessKey


class Inhabitants:
    """Remembers whom it found, so that only new namespaces cost more than a look."""

    def __init__(self, host: HostFs) -> None:
        self._host = host
        self._known: dict[int, Inhabitant] = {}

    def look(self) -> Mapping[int, Inhabitant]:
        """By namespace; without the node's own, and ours."""
        found: dict[int, list[int]] = {}
        for pid in processes.pids(self._host.proc):
            if (number := namespace(self._host, str(pid))) is not None:
                found.setdefault(number, []).append(pid)
        for own in ("1", "self"):
            found.pop(namespace(self._host, own) or 0, None)
        known, self._known = self._known, {}
        for number, pids in found.items():
            who = known.get(number)
            if who is None or processes.identify(self._host.proc, who.process.pid) != who.process:
                who = self._first(number, pids)
            if who is not None:
                self._known[number] = who
        return self._known

    def _first(self, number: int, pids: list[int]) -> Inhabitant | None:
        keys = [processes.identify(self._host.proc, pid) for pid in sorted(pids)[:_MOST]]
        alive = [key for key in keys if key is not None]
        if not alive:
            return None
        first = min(alive, key=lambda key: (key.start_ticks, key.pid))
        return Inhabitant(number, first)


def namespace(host: HostFs, pid: str) -> int | None:
    """The mount namespace of a process; None when it is gone, or may not be looked at."""
    try:
        text = os.readlink(f"{host.proc}/{pid}/ns/mnt")  # noqa: PTH115 -- for each process: paths cost more than the call
    except OSError:
        return None
    number = text.removeprefix("mnt:[").removesuffix("]")
    return int(number) if number.isdigit() else None


def command(host: HostFs, pid: int) -> str:
    """The name that a process gives itself."""
    try:
        text = os.fsdecode(host.of_pid(pid, "comm").read_bytes()).rstrip("\n")
    except OSError:
        return "?"
    return "".join(letter if letter.isprintable() else "?" for letter in text)
