# SPDX-License-Identifier: Apache-2.0
"""Which units are in use now: what podresources lists, and what was given out since it was asked.

Knows no rule and no socket. Thread-safe: the kubelet's calls add to it, the agent's look at
podresources corrects it. A unit counts as in use until the contrary is known:

- an allocation that podresources does not list is kept while its pod may still be being admitted,
  and while any process carries its directory. A kubelet that has just started lists no pods at all;
- until podresources has answered once, everything that was recorded counts (`in_use` says None).
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agents.errors import AgentError
from gpu_plugin import capacity, units
from gpu_plugin.capacity import InUse
from gpu_plugin.placement import Refused
from gpu_plugin.resources import Resource, ServedDevice, size_text

if TYPE_CHECKING:  # it loads gRPC, which arithmetic does not need
    from agents.podresources import PodDevices

#: An answer to Allocate is listed by podresources as soon as its pod is admitted; this is ample.
ADMISSION_S = 10.0
#: To look through all processes takes milliseconds; not each time for who will not end.
_LOOK_AGAIN_S = 10.0


_UnitsInUse = dict[str, dict[str, frozenset[int]]]


@dataclass(frozen=True, slots=True)
class Held:
    """What one container holds of one resource: (device, unit numbers)."""

    resource: str
    units: frozenset[tuple[str, frozenset[int]]]


def held(resource: str, grouped: Mapping[str, Iterable[int]]) -> Held:
    """From unit numbers by device."""
    return Held(resource, frozenset((uuid, frozenset(found)) for uuid, found in grouped.items()))


def listed(resource: str, ids: Sequence[str]) -> Held:
    """From the ids that podresources names; those of another form are passed over."""
    try:
        return held(resource, units.group(ids))
    except AgentError:
        return held(resource, units.group(filter(units.is_ours, ids)))


def held_by(pods: Iterable[PodDevices], resources: Container[str]) -> frozenset[Held]:
    """What podresources lists of these resources; all others are not ours."""
    return frozenset(
        listed(resource, ids)
        for pod in pods
        for container in pod.containers.values()
        for resource, ids in container.items()
        if resource in resources
    )


@dataclass(slots=True)
class _Live:
    """One answer to Allocate. `at` is monotonic seconds; `name` that of its directory (None: not
    made yet); `seen`: podresources has listed it; `carried_at`: when a process was last found with
    its directory although podresources did not list it.
    """

    held: Held
    at: float
    name: str | None = None
    seen: bool = False
    carried_at: float = -math.inf


class Claim:
    """Units that are being given to a container, in use from now on. `keep` ties them to the
    directory that was made for the container; `drop` gives them back if that did not come to pass.
    """

    def __init__(self, ledger: Ledger, number: int) -> None:
        self._ledger, self._number = ledger, number

    def keep(self, name: str) -> None:
        self._ledger.keep(self._number, name)

    def drop(self) -> None:
        self._ledger.drop(self._number)


class Ledger:
    """`changed` is called, from any thread, whenever what is in use may be another; of a claim when
    it is kept or dropped.
    """

    def __init__(
        self,
        changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lock = threading.Lock()
        self._changed, self._clock = changed, clock
        self._numbers = itertools.count()
        self._live: dict[int, _Live] = {}
        self._listed: frozenset[Held] = frozenset()
        self._known = False
        self._in_use: _UnitsInUse = {}
        self._certain: _UnitsInUse = {}

    @property
    def in_use(self) -> InUse | None:
        """A value that never changes; None: podresources has not answered yet."""
        with self._lock:
            return self._in_use if self._known else None

    def claim(self, resource: Resource, given: Mapping[ServedDevice, Iterable[int]]) -> Claim:
        """Take these units. Of a size class, only if the memory is there: raises Refused."""
        with self._lock:
            for served, numbers in given.items():
                if served.pool is not None:
                    self._check_room(resource, served, set(numbers))
            taken = held(
                resource.name, {served.device.uuid: numbers for served, numbers in given.items()}
            )
            number = next(self._numbers)
            self._live[number] = _Live(taken, self._clock())
            self._add(taken)
        return Claim(self, number)

    def offered(self, resource: Resource) -> Resource:
        """The resource with what is withheld at this moment."""
        return capacity.offered(resource, self.in_use)

    def current(self, resource: Resource) -> Resource:
        """What to choose from, of a resource as it was published: another class may have taken
        memory a moment ago, and its list follows within a second.
        """
        return self.offered(resource) if resource.classes else resource

    def keep(self, number: int, name: str) -> None:
        with self._lock:
            self._live[number].name = name
        self._changed()  # not before: whom it wakes would slow the kubelet's call down

    def drop(self, number: int) -> None:
        with self._lock:
            live = self._live.get(number)
            if live is None or live.name is not None:
                return
            del self._live[number]
            self._rebuild()
        self._changed()

    def restore(self, taken: Held, name: str, age_s: float) -> None:
        """An answer to Allocate that a former run of the agent gave `age_s` ago."""
        with self._lock:
            self._live[next(self._numbers)] = _Live(taken, self._clock() - age_s, name)
            self._add(taken)

    def settle(
        self,
        listed: frozenset[Held],
        asked_at: float,
        mounted: Callable[[frozenset[str]], Set[str] | None],
    ) -> None:
        """Take over what podresources listed when it was asked at `asked_at` (monotonic seconds).
        `mounted` says which of some directories any process carries (None: it could not tell).
        Blocks for as long as `mounted` does.
        """
        with self._lock:
            for live in self._live.values():
                live.seen = live.seen or live.held in listed
            ended = {
                number: live.name
                for number, live in self._live.items()
                if live.name is not None
                and live.held not in listed
                and live.at < asked_at - (0 if live.seen else ADMISSION_S)
                and live.carried_at <= asked_at - _LOOK_AGAIN_S
            }
        carried = mounted(frozenset(ended.values())) if ended else frozenset()
        with self._lock:
            for number, name in ended.items():
                if carried is None or name in carried:
                    self._live[number].carried_at = asked_at
                else:
                    del self._live[number]
            before, known = self._in_use, self._known
            self._listed, self._known = listed, True
            self._rebuild()
            same = known and before == self._in_use
        if not same:
            self._changed()

    def _check_room(self, resource: Resource, served: ServedDevice, numbers: set[int]) -> None:
        # What counts as in use already costs nothing: the kubelet gives the units of a container
        # again to the next one of the same pod, and knows first which pods have ended. Unless more
        # counts than there is: then records of pods that have ended are among them (a restart).
        uuid, size = served.device.uuid, resource.chunk or 0
        left = capacity.left(resource, served, self._in_use)
        counted = self._certain if left < 0 else self._in_use
        new = numbers.difference(capacity.numbers_in_use(counted, resource.name, uuid))
        if not new or (self._known and len(new) * size <= left):
            return
        why = f"{size_text(max(0, left))} are left on {uuid}, the rest is held"
        if not self._known:
            why = f"who holds what on {uuid} is not known yet"
        raise Refused("no_block", f"asked {len(new)} of {resource.name}, {why}")

    def _add(self, taken: Held) -> None:
        """Copies what it changes: others may be reading."""
        mine = dict(self._in_use.get(taken.resource, {}))
        for uuid, numbers in taken.units:
            mine[uuid] = mine.get(uuid, frozenset()) | numbers
        self._in_use = {**self._in_use, taken.resource: mine}

    def _rebuild(self) -> None:
        self._certain = _together(self._listed)
        self._in_use = _together([*self._listed, *(live.held for live in self._live.values())])


def _together(all_held: Iterable[Held]) -> _UnitsInUse:
    found: dict[str, dict[str, set[int]]] = {}
    for one in all_held:
        mine = found.setdefault(one.resource, {})
        for uuid, numbers in one.units:
            mine.setdefault(uuid, set()).update(numbers)
    return {
        resource: {uuid: frozenset(numbers) for uuid, numbers in mine.items()}
        for resource, mine in found.items()
    }
