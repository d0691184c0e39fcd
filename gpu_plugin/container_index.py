# SPDX-License-Identifier: Apache-2.0
"""Which container has which allocations, and which process is its first. Blocking; of one thread.

An allocation belongs to the container of any process that carries its directory (`carriers`
proves it); every process of that cgroup belongs to it, whatever its own mounts say. Found once for
a container and kept while it lives, since what it was given never changes. Nothing is written
down: after a restart all is found again. Knows no driver, kubelet or runtime.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace

from agents.cgroup_formats import CgroupPaths
from agents.cgroups import LinuxCgroups
from agents.container_cgroups import ContainerCgroup
from agents.hostfs import HostFs
from agents.processes import ProcessKey, identify, pids
from gpu_plugin import carriers
from gpu_plugin.carriers import Carriers, Home, Unreadable
from gpu_plugin.process_origins import ProcessOrigins

#: So many processes of a container are looked at, and for so long (seconds): one that is not the
#: first seldom tells more, and mount tables of any length are a way to keep everybody waiting.
_LOOKS, _LOOK_S = 32, 0.5


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. `new_s` between two looks at the processes that are new while an allocation is in
    nobody's hands, `all_s` between two at all of them; a process is new for `young_s`, as it may be
    seen before its mounts are made. `again_s` until what was found of a container is looked at
    again.
    """

    new_s: float = 2.0
    all_s: float = 60.0
    young_s: float = 10.0
    again_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Holding:
    """A container and the names of its allocations. `main` is its first process (None: it shows
    none). `looked` False: at none of its processes could be looked; `refused`: though they run.
    """

    cgroup: ContainerCgroup
    main: ProcessKey | None
    allocations: frozenset[str]
    looked: bool = True
    refused: bool = False


@dataclass(slots=True)
class _Known:
    holding: Holding
    looked_at: float


@dataclass(slots=True)
class _Sweep:
    """When processes were looked at last, all of them and new ones; which ones, and since when they
    are known; and for which names.
    """

    names: Set[str] = field(default_factory=frozenset)
    all_at: float = -math.inf
    new_at: float = -math.inf
    first_seen: Mapping[int, float] = field(default_factory=dict)


class ContainerIndex:
    """`home` says where the directories are, anew for each look (their file system may change)."""

    def __init__(
        self,
        host: HostFs,
        home: Callable[[], Home],
        origins: ProcessOrigins,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host, self._home, self._origins = host, home, origins
        self._timing, self._clock = timing or Timing(), clock
        self._cgroups = LinuxCgroups(host)
        self._known: dict[ContainerCgroup, _Known] = {}
        self._sweep = _Sweep()

    def look(
        self, names: Set[str], using: Iterable[ContainerCgroup]
    ) -> Mapping[ContainerCgroup, Holding]:
        """Containers with allocations of these names, and those that are `using` a device."""
        now, using = self._clock(), set(using)
        self._check(names, using, now)
        if strangers := using - self._known.keys():
            looks = Carriers(self._host.proc, self._home())
            for container in strangers:
                self._known[container] = _Known(self._looked_at(container, names, looks), now)
        if among := self._due(names, now):
            self._find(names, among, now)
        self._part_with_former()
        return {container: known.holding for container, known in self._known.items()}

    def _check(self, names: Set[str], using: Set[ContainerCgroup], now: float) -> None:
        """Forget containers that have ended, and what is to be looked at again."""
        for container, known in tuple(self._known.items()):
            holding = known.holding
            if container not in using and not holding.allocations & names:
                del self._known[container]
            elif now >= known.looked_at + self._timing.again_s:
                known.looked_at = now
                if not holding.allocations:
                    del self._known[container]  # it may have been looked at while it was started
                else:
                    self._still_there(container, known)

    def _still_there(self, container: ContainerCgroup, known: _Known) -> None:
        """Where its first process has ended, the container has too, or was restarted in place."""
        main = known.holding.main
        if main is not None and identify(self._host.proc, main.pid) == main:
            return
        members = self._members(container)
        if not members:
            del self._known[container]
        else:
            holding = known.holding
            known.holding = replace(holding, main=members[0])

    def _part_with_former(self) -> None:
        """A pod's container that is restarted is another one, with the same directories: which of
        two still runs is not left to the next look.
        """
        first: dict[str, ContainerCgroup] = {}
        for container, known in tuple(self._known.items()):
            for name in known.holding.allocations:
                other = first.setdefault(name, container)
                for each in {other, container} & self._known.keys() if other != container else ():
                    self._still_there(each, self._known[each])

    def _due(self, names: Set[str], now: float) -> Iterable[int]:
        """Processes that are to be looked at now, for what nobody is known to carry."""
        held = {name for known in self._known.values() for name in known.holding.allocations}
        sweep, timing = self._sweep, self._timing
        if names <= held or (now < sweep.new_at + timing.new_s and names <= sweep.names):
            return ()
        there = pids(self._host.proc)
        sweep.first_seen = {pid: sweep.first_seen.get(pid, now) for pid in there}
        sweep.new_at = now
        if names <= sweep.names and now < sweep.all_at + timing.all_s:
            return [pid for pid in there if now < sweep.first_seen[pid] + timing.young_s]
        sweep.names, sweep.all_at = frozenset(names), now
        return there

    def _find(self, names: Set[str], among: Iterable[int], now: float) -> None:
        found: dict[ContainerCgroup, set[str]] = {}
        in_containers: dict[int, ContainerCgroup] = {}

        def concerns(pid: int) -> bool:
            origin = self._origins.look(pid)
            if origin is None or not isinstance(origin.place, ContainerCgroup):
                return False  # somebody of the host who looks into a container
            in_containers[pid] = origin.place
            return True

        proc, home = self._host.proc, self._home()
        for pid, carried in carriers.sweep(proc, home, names, concerns, among):
            if carried is not None:
                found.setdefault(in_containers[pid], set()).update(carried)
        for container, carried in found.items():
            known = self._known.get(container)
            if known is None or not known.holding.allocations >= carried:
                members = self._members(container)
                before = frozenset() if known is None else known.holding.allocations
                main = members[0] if members else None
                holding = Holding(container, main, before | carried)
                self._known[container] = _Known(holding, now)

    def _looked_at(self, container: ContainerCgroup, names: Set[str], looks: Carriers) -> Holding:
        """What its processes carry: the first one, and the others only if that shows nothing."""
        members = self._members(container)
        main = members[0] if members else None
        found: set[str] = set()
        seen: set[carriers.View] = set()
        refused, until = False, self._clock() + _LOOK_S
        for member in members[:_LOOKS]:
            if found or self._clock() > until:
                break
            try:
                view = looks.view(member.pid)
                if view not in seen:
                    found |= looks.carried(member.pid, names)
                    seen.add(view)
            except Unreadable:
                refused = True
            except (FileNotFoundError, ProcessLookupError):
                continue
        looked = bool(seen)
        return Holding(container, main, frozenset(found), looked, refused and not looked)

    def _members(self, container: ContainerCgroup) -> list[ProcessKey]:
        """The processes of a container, by age."""
        keys = (identify(self._host.proc, pid) for pid in self._pids(container))
        return sorted((key for key in keys if key is not None), key=_age)

    def _pids(self, container: ContainerCgroup) -> Iterable[int]:
        """From its cgroup; where that is out of reach (a cgroup namespace of our own, a tree that
        is not mounted), by looking at every process.
        """
        memory = self._host.cgroup / "memory"
        v1 = {"memory": container.path} if memory.is_dir() else {}
        paths = CgroupPaths(container.path, v1)
        root = memory if v1 else self._host.cgroup
        if paths.outside or not (root / "cgroup.procs").exists():
            return self._search(container)
        return self._cgroups.pids(paths)

    def _search(self, container: ContainerCgroup) -> list[int]:
        origins = ((pid, self._origins.look(pid)) for pid in pids(self._host.proc))
        return [pid for pid, origin in origins if origin is not None and origin.place == container]


def _age(key: ProcessKey) -> tuple[int, int]:
    return key.start_ticks, key.pid
