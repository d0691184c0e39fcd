# SPDX-License-Identifier: Apache-2.0
"""What would happen to pods on an empty node, one after the other. Pure.

Decides nothing of its own: `placement` answers as it answers the kubelet, and the steps between are
those of scheduler and kubelet (topology manager policy `none`). A test lets the same pods through a
kubelet and the running plugin, and compares every word.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass

from gpu_plugin import capacity, placement, rejection, units
from gpu_plugin.allocation import Share, share_of
from gpu_plugin.ledger import Ledger
from gpu_plugin.placement import Refused
from gpu_plugin.pod_request import Pod
from gpu_plugin.resources import Resource, ServedDevice


class Outcome(enum.Enum):
    """`waits`: the scheduler sees too few free units, and keeps it Pending. `rejected`: the node
    was given the pod, and no device has room; it is Failed for good.
    """

    LANDS = "lands"
    WAITS = "waits"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one pod. `shares` is what it holds, one for each resource: what it asked for
    if it lands; if it is rejected, what it had got by then and keeps until it is deleted. `message`
    is what the status of a pod says that does not land.
    """

    pod: Pod
    outcome: Outcome
    shares: tuple[Share, ...] = ()
    message: str | None = None


class Node:
    """A node on which nothing runs yet. Pods never end here."""

    def __init__(self, resources: Sequence[Resource]) -> None:
        self._resources = {resource.name: resource for resource in resources}
        self._ledger = Ledger(clock=lambda: 0.0)
        self._ledger.settle(frozenset(), 0.0, lambda _: frozenset())
        self._stranded: Counter[str] = Counter()

    def admit(self, pod: Pod) -> Verdict:
        """All that it asks for, or nothing."""
        lacking = [name for name, size in pod.asks.items() if self._allocatable(name) < size]
        if lacking:
            return Verdict(pod, Outcome.WAITS, message=rejection.unschedulable(lacking))
        # What the kubelet knows while it goes through the resources of one pod.
        listed = {name: self._offered(name) for name in pod.asks}
        shares: list[Share] = []
        try:
            for name, size in pod.asks.items():
                shares.append(self._allocate(listed[name], size))
        except _Rejected as error:
            self._stranded.update({share.resource: share.units for share in shares})
            return Verdict(pod, Outcome.REJECTED, tuple(shares), str(error))
        return Verdict(pod, Outcome.LANDS, tuple(shares))

    def free(self, resource: str) -> dict[str, int]:
        """Units that can be given out now, by device."""
        return capacity.free(self._offered(resource), self._in_use) or {}

    def held(self, resource: str) -> dict[str, int]:
        """Units that pods hold, rejected ones too, by device."""
        return {
            served.device.uuid: len(self._taken(resource, served))
            for served in self._resources[resource].devices
        }

    @property
    def _in_use(self) -> capacity.InUse:
        return self._ledger.in_use or {}

    def _taken(self, resource: str, served: ServedDevice) -> Set[int]:
        return capacity.numbers_in_use(self._in_use, resource, served.device.uuid)

    def _offered(self, name: str) -> Resource:
        return self._ledger.offered(self._resources[name])

    def _allocatable(self, name: str) -> int:
        """What the scheduler thinks is left: it does not count what rejected pods hold."""
        return sum(self.free(name).values()) + self._stranded[name]

    def _allocate(self, listed: Resource, size: int) -> Share:
        """The kubelet's two questions, with the plugin's answers. Raises _Rejected."""
        name, available = listed.name, self._available(listed)
        if len(available) < size:
            raise _Rejected(rejection.when_short(name, size, len(available)))
        try:
            ids = placement.choose(self._ledger.current(listed), available, (), size)
        except Refused as error:
            raise _Rejected(rejection.when_preferring(name, error)) from error
        try:
            given = placement.check(listed, ids)
            self._ledger.claim(listed, given)
        except Refused as error:
            raise _Rejected(rejection.when_allocating(name, error)) from error
        return share_of(listed, given)

    def _available(self, listed: Resource) -> list[str]:
        """Healthy and free, as the kubelet offers them."""
        return [
            units.unit_id(served.device.uuid, number)
            for served in listed.devices
            if served.unhealthy is None
            for number in set(range(served.units))
            - served.withheld
            - self._taken(listed.name, served)
        ]


class _Rejected(Exception):
    """Its text is what the pod's status says."""
