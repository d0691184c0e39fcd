# SPDX-License-Identifier: Apache-2.0
"""One look at all containers for which it is time: what moved there is read, rendered, and written.

Keeps no container: whoever calls says which there are. Whatever goes wrong with one is said of that
one, and the others go on.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from agents.cgroups import Cgroups
from agents.errors import AgentError, Unavailable
from agents.hostfs import HostFs
from lxcfs_helper.covered import Covered, Failure
from lxcfs_helper.demand import Demand
from lxcfs_helper.facts import HostFacts
from lxcfs_helper.host_reading import HostReader

#: What to do about what the kernel refuses.
REMEDIES = {
    errno.ENOSPC: "the tmpfs of the views is full: look for what else is in it",
    errno.EMFILE: "raise the limit of open files (LimitNOFILE) of this agent",
    errno.ENFILE: "raise fs.file-max",
}


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one `refresh` did.

    How many containers there were, in how many somebody reads, how many were looked at, and how
    many containers and views were rendered. The age of the oldest files before it, of all and of
    those that are read, and how long it took, in seconds; `cpu_s` of that on a CPU.
    """

    containers: int = 0
    read: int = 0
    looked: int = 0
    rendered: int = 0
    views: int = 0
    oldest_s: float = 0.0
    oldest_read_s: float = 0.0
    duration_s: float = 0.0
    cpu_s: float = 0.0


class Sweeper:
    """For one thread."""

    def __init__(
        self, host: HostFs, cgroups: Cgroups, clock: Callable[[], float], demand: Demand | None
    ) -> None:
        """`demand` None: nobody tells who reads, so everybody is taken to read all the time."""
        self._host_reader = HostReader(host)
        self._cgroups = cgroups
        self._clock = clock
        self._demand = demand
        #: As they were at the last sweep that rendered anything.
        self.host_facts: HostFacts | None = None

    def refresh(self, covered: Collection[Covered], heartbeat_s: float) -> Sweep:
        """Bring the files of every container up to date for which it is time and in which something
        moved. `heartbeat_s`: how old what is read may get. Raises Unavailable when the host itself
        cannot be read."""
        started, cpu, now = time.perf_counter(), time.thread_time(), self._clock()
        due = [one for one in covered if one.rhythm.look_from <= now]
        reading = [
            now - one.rendered_at
            for one in due
            if one.rendered_at and one.rhythm.read_at >= one.rhythm.looked_at
        ]
        self._cgroups.read_anew()
        moved = [(one, sources) for one in due if (sources := _look(one, now, heartbeat_s))]
        oldest_s = max((now - one.rendered_at for one, _ in moved if one.rendered_at), default=0.0)
        views = 0
        if moved:
            host = self.host_facts = self._read_host(moved)
            views = sum(_render(one, sources, host, now) for one, sources in moved)
        for one in due:
            if one.rhythm.to_expect(now):
                self._expect(one)
        return Sweep(
            containers=len(covered),
            read=len(reading),
            looked=len(due),
            rendered=len(moved),
            views=views,
            oldest_s=oldest_s,
            oldest_read_s=max(reading, default=0.0),
            duration_s=time.perf_counter() - started,
            cpu_s=time.thread_time() - cpu,
        )

    def _read_host(self, moved: Collection[tuple[Covered, int]]) -> HostFacts:
        try:
            return self._host_reader.read()
        except AgentError:
            for one, sources in moved:  # that they moved is told once
                one.look_at(sources)
            raise

    def _expect(self, one: Covered) -> None:
        """Have the next read told, if there is anything to read, and anybody to tell it."""
        if self._demand is None or not (one.selected and one.rendered_at):
            return
        try:
            self._demand.expect(one.id, one.directory)
            one.rhythm.expect()
        except Unavailable:
            pass  # it is taken as read until this works


def _look(one: Covered, now: float, heartbeat_s: float) -> int:
    try:
        return one.look(now, heartbeat_s)
    except OSError as error:
        one.failed(explained(error), Failure.READ)
        return 0


def _render(one: Covered, sources: int, host: HostFacts, now: float) -> int:
    try:
        return one.render(sources, host, now)
    except (OSError, Unavailable, ValueError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        one.failed(explained(error), Failure.WRITE if full else Failure.READ)
        return 0


def explained(error: Exception) -> str:
    """With a remedy, where the kernel's word has none."""
    remedy = REMEDIES.get(error.errno or 0) if isinstance(error, OSError) else None
    return str(error) if remedy is None else f"{error}; {remedy}"
