# SPDX-License-Identifier: Apache-2.0
"""A kubelet in memory, beside the plugin's own decisions: no socket, no thread, time by hand.

It does what the kubelet does with units, in its order, and lets everything be late: lists that were
not delivered yet, podresources that was not asked or knows nothing after a restart. For tests that
go through thousands of sequences.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from gpu_plugin import capacity, placement, units
from gpu_plugin.ledger import Held, Ledger, held, listed
from gpu_plugin.placement import Refused
from gpu_plugin.resources import Resource


@dataclass(slots=True)
class Pod:
    """Units by resource; the directories of its answers to Allocate."""

    holds: dict[str, tuple[str, ...]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)


class Node:
    """One machine: a kubelet, pods, and the plugin's ledger."""

    def __init__(self, plan: Sequence[Resource], rng: random.Random) -> None:
        self.plan = {resource.name: resource for resource in plan}
        self.rng = rng
        self.now = 100.0
        self.pods: list[Pod] = []
        self.sick: set[str] = set()
        self.refused: list[Refused] = []
        #: Answers to Allocate that are on disk: name → what was given, and when.
        self.records: dict[str, tuple[Held, float]] = {}
        #: Of the kubelet: the units it believes healthy.
        self.healthy: dict[str, set[str]] = {name: set() for name in self.plan}
        #: After a restart the kubelet lists no pods, for a while.
        self.knows_pods = True
        self.ledger = Ledger(clock=lambda: self.now)

    # -- what the agent does

    def offered(self) -> dict[str, Resource]:
        """What is offered now, with the health of the devices."""
        return {name: self.ledger.offered(self._with_health(name)) for name in self.plan}

    def settle(self) -> None:
        """Podresources is asked, and answers."""
        lists = {listed(name, ids) for pod in self.pods for name, ids in pod.holds.items()}
        found = frozenset(lists) if self.knows_pods else frozenset()
        self.ledger.settle(found, self.now, self._carried)

    def restart_agent(self) -> None:
        self.ledger = Ledger(clock=lambda: self.now)
        for name, (given, at) in self.records.items():
            self.ledger.restore(given, name, self.now - at)

    # -- what the kubelet does

    def deliver(self, name: str) -> None:
        """The list of one resource arrives."""
        self.healthy[name] = {
            units.unit_id(served.device.uuid, number)
            for served in self.offered()[name].devices
            if served.unhealthy is None
            for number in range(served.units)
            if number not in served.withheld
        }

    def allocatable(self, name: str) -> int:
        return len(self.healthy[name])

    def free(self, name: str) -> set[str]:
        return self.healthy[name] - self.used(name)

    def used(self, name: str) -> set[str]:
        return {id_ for pod in self.pods for id_ in pod.holds.get(name, ())}

    def admit(self, asks: Mapping[str, int], *, ask_preferred: bool = True) -> Pod | None:
        """A pod that was bound to this node; None when it is rejected. What it got by then stays
        taken until it is deleted, as in the kubelet: such a pod lists nothing.
        """
        pod = Pod()
        for name, size in asks.items():
            try:
                ids = self._chosen(name, size, ask_preferred)
                pod.names.append(self.allocate(name, ids))
            except Refused as error:
                self.refused.append(error)
                return None
            pod.holds[name] = ids
        self.pods.append(pod)
        return pod

    def allocate(self, name: str, ids: Sequence[str]) -> str:
        """One call of Allocate; returns the name of the directory that was made."""
        resource = self._with_health(name)
        given = placement.check(resource, ids)
        claim = self.ledger.claim(resource, given)
        directory = f"{len(self.records):06d}"
        claim.keep(directory)
        grouped = {served.device.uuid: numbers for served, numbers in given.items()}
        self.records[directory] = held(name, grouped), self.now
        return directory

    def _chosen(self, name: str, size: int, ask_preferred: bool) -> tuple[str, ...]:
        available = sorted(self.free(name))
        self.rng.shuffle(available)
        if len(available) < size:
            raise Refused("kubelet", f"requested {size} of {name}, available {len(available)}")
        if not ask_preferred:
            return tuple(available[:size])
        return placement.choose(self.ledger.offered(self._with_health(name)), available, (), size)

    def _with_health(self, name: str) -> Resource:
        resource = self.plan[name]
        return replace(
            resource,
            devices=tuple(
                replace(one, unhealthy="sick" if one.device.uuid in self.sick else None)
                for one in resource.devices
            ),
        )

    def _carried(self, names: frozenset[str]) -> set[str]:
        return {name for pod in self.pods for name in pod.names} & names

    # -- what must always hold

    def check(self) -> None:
        """Nothing is sold twice, and nothing in use is shown as unhealthy."""
        for name in self.plan:
            ids = [id_ for pod in self.pods for id_ in pod.holds.get(name, ())]
            assert len(ids) == len(set(ids)), f"a unit of {name} is held twice"
        for resource in self.plan.values():
            for served in resource.devices:
                if served.pool is not None:
                    uuid = served.device.uuid
                    taken = sum(
                        units.count(self.used(name)).get(uuid, 0) * size
                        for name, size in resource.classes
                    )
                    assert taken <= served.pool, f"{uuid} is oversold: {taken} of {served.pool}"
        if self.ledger.in_use is not None:
            for name, resource in self.offered().items():
                for served in resource.devices:
                    shown = {units.unit_id(served.device.uuid, n) for n in served.withheld}
                    assert not shown & self.used(name), "a unit in use is withheld"

    def check_settled(self) -> None:
        """Nothing leaked: what is offered is what pods hold, and what still fits."""
        in_use = {name: units.group(self.used(name)) for name in self.plan}
        for name, resource in self.offered().items():
            assert resource == capacity.offered(self._with_health(name), in_use)
