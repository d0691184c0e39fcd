# SPDX-License-Identifier: Apache-2.0
"""The containers that are shown views: who they are, what their files say, what is to be attached.

Three verbs, all for one thread: `observe` takes the list of running containers, `refresh` brings
files up to date where something moved, `settle` takes what the injector found. What each container
is like in between is in `covered`. Attaches nothing itself and never waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents import processes
from agents.cgroups import Cgroups
from agents.containers import Container
from agents.errors import Unavailable
from agents.hostfs import HostFs
from lxcfs_helper.config import ViewConfig
from lxcfs_helper.covered import Covered
from lxcfs_helper.facts import HostFacts
from lxcfs_helper.files import ViewFiles
from lxcfs_helper.inject import Result, Step, Wish
from lxcfs_helper.reading import HostReader
from lxcfs_helper.selection import Located, locate, selected

#: No file is older than this, read or not.
MAX_AGE_S = 5.0

#: A runtime that restarts may list nobody for a while; only then does a file belong to nobody.
ORPHAN_S = 60.0


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one `refresh` did: containers looked at and rendered, how long it took, how old the
    oldest file was before it."""

    containers: int = 0
    rendered: int = 0
    duration_s: float = 0.0
    oldest_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Order:
    """What the injector is to do for one container. `expected`: something is known to have changed;
    otherwise this is only a check."""

    located: Located
    wishes: tuple[Wish, ...]
    expected: bool


def boot_clock() -> float:
    """Seconds since boot, suspended time included: what process start times count in."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Coverage:
    """See the module."""

    def __init__(
        self,
        config: ViewConfig,
        host: HostFs,
        cgroups: Cgroups,
        files: ViewFiles,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self.config = config
        self._host = host
        self._host_reader = HostReader(host)
        self._cgroups = cgroups
        self._files = files
        self._clock = clock
        self._covered: dict[str, Covered] = {}
        self._excluded: dict[str, Container] = {}
        self._unlocated: dict[str, tuple[Container, str]] = {}
        self._orphans: dict[str, float] = {}
        #: As they were at the last sweep that rendered anything.
        self.host_facts: HostFacts | None = None

    def observe(self, running: Sequence[Container]) -> None:
        """Take the containers that run now: cover new ones, let go of those that are gone.

        Raises Unavailable when no files can be made.
        """
        wanted = any(selected(self.config.inject, container) for container in running)
        if wanted and self._files.mount():
            for one in self._covered.values():
                one.start_over()
        self._excluded.clear()
        self._unlocated.clear()
        for container in running:
            self._observe_one(container)
        listed = {container.id for container in running}
        for container_id in [*self._covered]:
            if container_id not in listed or self._covered[container_id].finished:
                self._drop_if_gone(container_id)
        self._remove_orphans(listed)

    def refresh(self) -> Sweep:
        """Bring the files of every container up to date in which something moved. Raises
        Unavailable when the host itself cannot be read."""
        started, now = time.perf_counter(), self._clock()
        moved = [one for one in self._covered.values() if one.moved(now, self._patience_s)]
        ages = [now - one.rendered_at for one in self._covered.values() if one.rendered_at]
        if moved:
            self._cgroups.read_anew()
            host = self.host_facts = self._host_reader.read()
            for one in moved:
                self._render(one, host, now)
        duration_s = time.perf_counter() - started
        return Sweep(len(self._covered), len(moved), duration_s, max(ages, default=0.0))

    def orders(self, *, everything: bool = False) -> tuple[Order, ...]:
        """What is to be attached or checked: where something changed, or everywhere."""
        found = []
        for one in self._covered.values():
            if (everything or one.pending) and (one.rendered_at or not one.selected):
                found.append(Order(one.located, one.wishes(), one.pending))
                one.pending = False
        return tuple(found)

    def settle(self, order: Order, results: Mapping[Path, Result], *, beneath: bool) -> None:
        """Take note of how it stands in one container. `beneath`: nothing was stacked there."""
        one = self._covered.get(order.located.container.id)
        if one is not None and one.located == order.located:
            one.settle(results)
            if beneath and any(Step.REPLACE in result.steps for result in results.values()):
                self._files.discard_superseded(one.id)

    def all(self) -> Iterable[Covered]:
        """The covered containers."""
        return self._covered.values()

    def excluded(self) -> Iterable[Container]:
        """Running containers that the configuration leaves out."""
        return self._excluded.values()

    def unlocated(self) -> Iterable[tuple[Container, str]]:
        """Running containers that could not be found on the host, each with the reason."""
        return self._unlocated.values()

    def close(self) -> None:
        """Let go of open files. Everything stays attached."""
        for one in self._covered.values():
            one.close()
        self._covered.clear()
        self._files.close()

    @property
    def _patience_s(self) -> float:
        """How old the files of a container may get in which nothing moves; the next look comes one
        heartbeat later."""
        return max(0.0, MAX_AGE_S - 2 * self.config.heartbeat)

    def _observe_one(self, container: Container) -> None:
        wanted = selected(self.config.inject, container)
        if not wanted:
            self._excluded[container.id] = container
        one = self._covered.get(container.id)
        if one is None and (wanted or container.id in self._files.containers()):
            one = self._cover(container)
        if one is not None:
            one.select(self.config.files if wanted else ())

    def _cover(self, container: Container) -> Covered | None:
        try:
            located = locate(self._host, self._cgroups, container)
            cgroup = self._cgroups.open(located.cgroup)
        except ProcessLookupError:
            return None
        except (Unavailable, OSError) as error:
            self._unlocated[container.id] = container, str(error)
            return None
        one = Covered(located, cgroup, self._files)
        self._covered[container.id] = one
        return one

    def _render(self, one: Covered, host: HostFacts, now: float) -> None:
        try:
            one.render(host, now)
        except (OSError, Unavailable, ValueError) as error:
            one.failed(str(error))

    def _remove_orphans(self, listed: set[str]) -> None:
        """Remove files that an earlier agent made for containers which are not listed any more."""
        now = self._clock()
        orphans = self._files.containers() - listed - self._covered.keys()
        self._orphans = {one: self._orphans.get(one, now) for one in orphans}
        for orphan, since in self._orphans.items():
            if now - since >= ORPHAN_S:
                self._files.remove(orphan)

    def _drop_if_gone(self, container_id: str) -> None:
        """A runtime that restarts may list nobody for a moment: the process itself decides."""
        one = self._covered[container_id]
        key = one.located.process
        if one.finished or processes.identify(self._host.proc, key.pid) != key:
            del self._covered[container_id]
            one.close()
            self._files.remove(container_id)
