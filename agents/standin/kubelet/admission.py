# SPDX-License-Identifier: Apache-2.0
"""Devices for a pod: which ids, and what the plugin has to say to it. An error rejects the pod.

Called by one pod at a time; calls to plugins have no time limit here, which is the kubelet's own
trap. Starts no container.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Set

from agents.errors import AgentError
from agents.standin.kubelet.allocations import Allocation, by_numa
from agents.standin.kubelet.behaviour import Behaviour
from agents.standin.kubelet.choice import Prefer, choose, near_node
from agents.standin.kubelet.endpoint import Endpoint, PluginError
from agents.standin.kubelet.events import EventKind, EventLog
from agents.standin.kubelet.plugins import Plugins
from agents.standin.kubelet.state import DeviceState
from agents.standin.pods import ContainerSpec, PodSpec

REASON = "UnexpectedAdmissionError"
_NOTHING: Mapping[str, Set[str]] = {}


class NotAllocated(AgentError):
    """No devices for this container; `message` is the kubelet's, without what it wraps around."""

    @property
    def rejection(self) -> str:
        """As the pod's status shows it."""
        return f"Pod was rejected: Allocate failed due to {self.message}, which is unexpected"


class Admission:
    """Allocates devices to containers, in the kubelet's order of steps."""

    def __init__(
        self,
        state: DeviceState,
        plugins: Plugins,
        behaviour: Behaviour,
        events: EventLog,
        rng: random.Random,
    ) -> None:
        self._state = state
        self._plugins = plugins
        self._behaviour = behaviour
        self._events = events
        self._rng = rng

    def admit(self, pod_uid: str, spec: PodSpec) -> None:
        """All that a pod asks for: what an init container holds is used again by the others.

        Raises NotAllocated; what it has by then stays taken.
        """
        reusable: dict[str, frozenset[str]] = {}
        for container in (*spec.init_containers, *spec.containers):
            self._check_known(pod_uid, container)
            self.allocate(pod_uid, container, reusable)
            for resource in container.resources:
                held = self._state.allocations.get(pod_uid, container.name, resource)
                ids = frozenset() if held is None else held.ids
                known = reusable.get(resource, frozenset())
                init = container in spec.init_containers
                reusable[resource] = known | ids if init else known - ids

    def allocate(
        self, pod_uid: str, container: ContainerSpec, reusable: Mapping[str, Set[str]] = _NOTHING
    ) -> None:
        """All that it asks for. Raises NotAllocated; what it has by then stays taken."""
        for resource, count in container.resources.items():
            known = self._state.allocations.get(pod_uid, container.name, resource)
            if count > 0 and known is None:
                ids = reusable.get(resource, frozenset())
                self._allocate(pod_uid, container.name, resource, count, ids)

    def _check_known(self, pod_uid: str, container: ContainerSpec) -> None:
        """What a checkpoint holds for it must be there and healthy (since Kubernetes 1.27)."""
        for resource in container.resources:
            known = self._state.allocations.get(pod_uid, container.name, resource)
            if known is None:
                continue
            with self._state.changed:
                healthy = self._healthy(resource)
            if not known.ids <= healthy:
                text = "previously allocated devices are no longer healthy; cannot allocate "
                raise NotAllocated(f"{text}unhealthy devices {resource}")

    def _healthy(self, resource: str) -> set[str]:
        """With the lock held. Raises NotAllocated when there is none."""
        if not self._state.table.registered(resource):
            raise NotAllocated(f"cannot allocate unregistered device {resource}")
        healthy = set(self._state.table.healthy(resource))
        if not healthy:
            text = "no healthy devices present; cannot allocate unhealthy devices"
            raise NotAllocated(f"{text} {resource}")
        return healthy

    def _allocate(
        self, pod_uid: str, container: str, resource: str, count: int, reusable: Set[str]
    ) -> None:
        endpoint = self._plugins.endpoint(resource)
        try:
            ids = self._choose(resource, count, endpoint, reusable)
            if endpoint is None:
                raise NotAllocated(f"unknown device plugin {resource}")
            answer = endpoint.allocate(ids)
        except PluginError as error:
            self._events.add(EventKind.CALL_FAILED, resource, error.message)
            raise NotAllocated(error.message) from error
        with self._state.changed:
            numa = by_numa(ids, self._state.table.numa(resource))
        self._state.add_allocation(
            Allocation(pod_uid, container, resource, numa, answer.SerializeToString())
        )

    def _choose(
        self, resource: str, count: int, endpoint: Endpoint | None, reusable: Set[str]
    ) -> tuple[str, ...]:
        with self._state.changed:
            table = self._state.table
            healthy = self._healthy(resource)
            # First of all, and without asking the plugin.
            again = tuple(self._rng.sample(sorted(reusable), k=len(reusable)))[:count]
            count -= len(again)
            free = healthy - self._state.allocations.in_use(resource)
            aligned = near_node(free, table.numa(resource), self._behaviour.numa_node)
        if len(free) < count:
            raise NotAllocated(
                f"requested number of devices unavailable for {resource}. "
                f"Requested: {count}, Available: {len(free)}"
            )
        if not count:
            return again
        chosen = choose(free, count, self._prefer(endpoint), rng=self._rng, aligned=aligned)
        if chosen.repaired is not None:
            self._events.add(EventKind.ANSWER_REPAIRED, resource, chosen.repaired)
        return again + chosen.ids

    def _prefer(self, endpoint: Endpoint | None) -> Prefer | None:
        asked = (
            self._behaviour.ask_preferred
            and endpoint is not None
            and endpoint.options.get_preferred_allocation_available
        )
        return endpoint.prefer if asked and endpoint is not None else None
