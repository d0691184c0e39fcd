# SPDX-License-Identifier: Apache-2.0
"""The node object: what API server and scheduler believe, which can lag behind.

Knows the numbers only. Pods that do not fit wait here, as they would unscheduled.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agents.standin.kubelet import quantities
from agents.standin.kubelet.pods import PodRecord
from agents.standin.kubelet.state import DeviceState
from agents.standin.pods import PodSpec


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """Capacity and allocatable as the node object writes them: `80k`, not 80000."""

    capacity: Mapping[str, str]
    allocatable: Mapping[str, str]


class Node:
    """The published numbers; brought up to date every `period_s` (0: at every look)."""

    def __init__(self, state: DeviceState, period_s: float) -> None:
        self._state = state
        self._period_s = period_s
        self._next = 0.0
        self._published: dict[str, tuple[int, int]] = {}

    def tick(self) -> None:
        """Publish if it is time."""
        with self._state.changed:
            if time.monotonic() >= self._next:
                self._next = time.monotonic() + self._period_s
                self._published = {
                    name: (resource.capacity, resource.allocatable)
                    for name, resource in self._state.resources().items()
                }

    def status(self) -> NodeStatus:
        numbers = self._numbers()
        return NodeStatus(
            {name: quantities.canonical(capacity) for name, (capacity, _) in numbers.items()},
            {name: quantities.canonical(free) for name, (_, free) in numbers.items()},
        )

    def lacking(self, spec: PodSpec, bound: Iterable[PodRecord]) -> tuple[str, ...]:
        """The resources of which too little is left, as far as the node object tells."""
        left = {name: allocatable for name, (_, allocatable) in self._numbers().items()}
        for pod in bound:
            for name, count in requests(pod.spec).items():
                left[name] = left.get(name, 0) - count
        return tuple(
            name for name, count in requests(spec).items() if count and left.get(name, 0) < count
        )

    def _numbers(self) -> Mapping[str, tuple[int, int]]:
        with self._state.changed:
            if not self._period_s:
                self.tick()
            return dict(self._published)


def requests(spec: PodSpec) -> dict[str, int]:
    """What the containers of a pod ask for together, or one of its init containers if that is
    more.
    """
    total: dict[str, int] = {}
    for container in spec.containers:
        for name, count in container.resources.items():
            total[name] = total.get(name, 0) + count
    for container in spec.init_containers:
        for name, count in container.resources.items():
            total[name] = max(total.get(name, 0), count)
    return total


def unschedulable(lacking: Iterable[str]) -> str:
    """The scheduler's words for a pod that fits nowhere."""
    what = ", ".join(f"1 Insufficient {name}" for name in lacking)
    return f"0/1 nodes are available: {what}."
