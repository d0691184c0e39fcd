# SPDX-License-Identifier: Apache-2.0
"""The containers that are shown views: who they are, what their files say, what is to be attached.

All for one thread: `observe` takes the list of running containers, `limits_changed` and `read_by`
what the kernel told of them, `refresh` brings the files up to date for which it is time, `settle`
takes what the injector found. What each container is like in between is in `covered`. Attaches
nothing itself and never waits.
"""

from __future__ import annotations

import errno
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents import processes
from agents.cgroup_events import CgroupChanges
from agents.cgroups import Cgroups
from agents.containers import Container, Pod
from agents.errors import Unavailable
from agents.hostfs import HostFs
from lxcfs_helper.config import ViewConfig
from lxcfs_helper.covered import Covered, Failure
from lxcfs_helper.demand import Demand
from lxcfs_helper.facts import HostFacts
from lxcfs_helper.files import ViewFiles
from lxcfs_helper.host_reading import CLOCK_TICKS
from lxcfs_helper.inject import Result, Step, Wish
from lxcfs_helper.reading import ContainerReader
from lxcfs_helper.selection import Exclusion, Located, exclusion, locate, misunderstood
from lxcfs_helper.sources import Source
from lxcfs_helper.sweep import REMEDIES, Sweep, Sweeper, explained

#: A sweep takes its time, and so do those who wait for the same CPU: what is promised for a
#: heartbeat is done in this part of it.
_EARLY = 0.9

#: A runtime that restarts may list nobody for a while; only then does a file belong to nobody.
ORPHAN_S = 60.0


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
        demand: Demand | None = None,
        most: int = sys.maxsize,
    ) -> None:
        """`demand` None: nobody tells who reads, so everybody is taken to read all the time.
        `most`: how many containers can be covered at all."""
        self.config = config
        self._most = most
        self._host = host
        self._sweeper = Sweeper(host, cgroups, clock, demand)
        self._cgroups = cgroups
        self._files = files
        self._clock = clock
        self._covered: dict[str, Covered] = {}
        self._excluded: dict[str, tuple[Container, Exclusion]] = {}
        self._unlocated: dict[str, tuple[Container, str]] = {}
        self._orphans: dict[str, float] = {}

    def observe(self, running: Sequence[Container]) -> None:
        """Take the containers that run now: cover new ones, let go of those that are gone.

        Raises Unavailable when no files can be made.
        """
        wanted = any(exclusion(self.config.inject, one.pod) is None for one in running)
        if wanted and self._files.mount():
            for one in self._covered.values():
                one.start_over()
        self._excluded.clear()
        self._unlocated.clear()
        with_files = self._files.containers()
        for container in running:
            self._observe_one(container, has_files=container.id in with_files)
        listed = {container.id for container in running}
        for container_id in [*self._covered]:
            if container_id not in listed or self._covered[container_id].finished:
                self._drop_if_gone(container_id)
        self._remove_orphans(with_files - listed)

    def take(self, container: Container) -> Covered | None:
        """Take in one container that was told of before it is listed, with fresh files. None: it is
        left out, or there is nothing to be shown. Raises Unavailable, as `observe` and `refresh`.
        """
        if exclusion(self.config.inject, container.pod) is None and self._files.mount():
            for one in self._covered.values():
                one.start_over()
        self._observe_one(container, has_files=False)
        found = self.selected(container.id)
        if found is not None and not found.rendered_at:
            self._sweeper.refresh([found], self._heartbeat_s)
        return found

    def selected(self, container_id: str) -> Covered | None:
        """The container with this id, if it is to be shown views."""
        one = self._covered.get(container_id)
        return one if one is not None and one.selected else None

    def limits_changed(self, changes: CgroupChanges) -> None:
        """Take what happened in the cgroup trees: whose limits may be different now."""
        if not (changes.limited or changes.lost):
            return
        for one in self._covered.values():
            if any(changes.limits(path) for path in one.located.cgroup.all()):
                one.look_at(Source.LIMITS)

    def check_limits(self) -> None:
        """Look whether limits were set anew, where nobody tells."""
        self._cgroups.read_anew()
        for one in self._covered.values():
            try:
                one.check_limits()
            except OSError as error:
                one.failed(explained(error), Failure.READ)

    def removed(self, changes: CgroupChanges) -> None:
        """Take which cgroups are gone: their containers are, when their process is as well."""
        gone = [
            container_id
            for container_id, one in (self._covered.items() if changes.removed else ())
            if not changes.removed.isdisjoint(one.located.cgroup.all())
        ]
        for container_id in gone:
            self._drop_if_gone(container_id)

    def read_by(self, container_ids: Iterable[str]) -> None:
        """Take who reads now."""
        now = self._clock()
        for container_id in container_ids:
            one = self._covered.get(container_id)
            if one is not None:
                one.rhythm.read(now, self._heartbeat_s)

    def next_look_s(self) -> float:
        """In how many seconds the next `refresh` is due."""
        soonest = min((one.rhythm.look_before for one in self._covered.values()), default=math.inf)
        return max(0.0, soonest - self._clock())

    def refresh(self) -> Sweep:
        """Bring the files of every container up to date for which it is time and in which something
        moved. Raises Unavailable when the host itself cannot be read."""
        return self._sweeper.refresh(self._covered.values(), self._heartbeat_s)

    @property
    def host_facts(self) -> HostFacts | None:
        """As they were at the last sweep that rendered anything."""
        return self._sweeper.host_facts

    def orders(self, *, everything: bool = False) -> tuple[Order, ...]:
        """What is to be attached or checked: where something changed, or everywhere."""
        return tuple(
            self._order(one)
            for one in self._covered.values()
            if (everything or one.pending) and (one.rendered_at or not one.selected)
        )

    def order_of(self, container_id: str) -> Order | None:
        """What is to be attached or checked in one container; None: nothing can be yet."""
        one = self._covered.get(container_id)
        return None if one is None or not one.rendered_at else self._order(one)

    @staticmethod
    def _order(one: Covered) -> Order:
        order = Order(one.located, one.wishes(), one.pending)
        one.pending = False
        return order

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

    def read(self) -> int:
        """In how many containers somebody read lately."""
        now = self._clock()
        return sum(one.rhythm.is_read(now) for one in self._covered.values())

    def excluded(self) -> Iterable[tuple[Container, Exclusion]]:
        """Running containers that are left out, each with the reason."""
        return self._excluded.values()

    def misunderstood(self) -> Iterable[tuple[Pod, str]]:
        """Pods that say of themselves what is not understood, and what is wrong with it."""
        running = [one.located.container for one in self._covered.values()]
        running += [container for container, _ in self._excluded.values()]
        for pod in {container.pod.uid: container.pod for container in running}.values():
            problem = misunderstood(self.config.inject, pod)
            if problem is not None:
                yield pod, problem

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
    def _heartbeat_s(self) -> float:
        return self.config.heartbeat * _EARLY

    def _observe_one(self, container: Container, *, has_files: bool) -> None:
        why_not = exclusion(self.config.inject, container.pod)
        wanted = why_not is None
        if why_not is not None:
            self._excluded[container.id] = container, why_not
        one = self._covered.get(container.id)
        if one is not None and container.pid not in (None, one.located.process.pid):
            self._drop_if_gone(container.id)  # it was started again under the same id
            one = self._covered.get(container.id)
        if one is None and (wanted or has_files):
            one = self._cover(container)
        if one is not None:
            one.select(self.config.files if wanted else ())

    def _cover(self, container: Container) -> Covered | None:
        try:
            if len(self._covered) >= self._most:
                raise Unavailable(
                    f"no more than {self._most} containers can be covered with the open files "
                    "that this agent may have",
                    remedy=REMEDIES[errno.EMFILE],
                )
            located = locate(self._host, self._cgroups, container)
            cgroup = self._cgroups.open(located.cgroup)
        except ProcessLookupError:
            return None
        except (Unavailable, OSError) as error:
            self._unlocated[container.id] = container, explained(error)
            return None
        started_s = located.process.start_ticks / CLOCK_TICKS
        reader = ContainerReader(cgroup, self._host.proc, started_s)
        one = Covered(located, cgroup, reader, self._files)
        self._covered[container.id] = one
        return one

    def _remove_orphans(self, unlisted: frozenset[str]) -> None:
        """Remove files that an earlier agent made for containers which are not listed any more."""
        now = self._clock()
        orphans = unlisted - self._covered.keys()
        self._orphans = {one: self._orphans.get(one, now) for one in orphans}
        for orphan, since in self._orphans.items():
            if now - since >= ORPHAN_S:
                self._files.remove(orphan)

    def _drop_if_gone(self, container_id: str) -> None:
        """A runtime that restarts may list nobody for a moment: the process itself decides."""
        one = self._covered[container_id]
        key = one.located.process
        try:
            gone = one.finished or processes.identify(self._host.proc, key.pid) != key
        except OSError:  # in doubt it stays
            return
        if gone:
            del self._covered[container_id]
            one.close()
            self._files.remove(container_id)
