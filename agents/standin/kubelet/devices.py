# SPDX-License-Identifier: Apache-2.0
"""The devices of each resource as the kubelet counts them. Pure: no clock, no lock, no plugin.

Healthy devices are allocatable, all are capacity. A lost plugin makes all its devices unhealthy;
after a grace period the resource is forgotten, and stays on the node as 0. Every list is complete
and replaces the former.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

HEALTHY = "Healthy"


@dataclass(frozen=True, slots=True)
class PluginDevice:
    """A device as its plugin lists it; `numa` is empty without topology."""

    id: str
    healthy: bool
    numa: tuple[int, ...] = ()


@dataclass(slots=True)
class _Resource:
    """`stopped_at` is when its plugin was lost (monotonic seconds); None while it is connected."""

    healthy: set[str] = field(default_factory=set)
    unhealthy: set[str] = field(default_factory=set)
    numa: dict[str, tuple[int, ...]] = field(default_factory=dict)
    stopped_at: float | None = None
    forgotten: bool = False


class DeviceTable:
    """All resources that were ever registered with this kubelet. Not thread-safe."""

    def __init__(self) -> None:
        self._resources: dict[str, _Resource] = {}

    def restore(self, resources: Iterable[str], now: float) -> None:
        """Known from before a restart: there, with nothing, until the plugin registers again."""
        for resource in resources:
            self._resources[resource] = _Resource(stopped_at=now)

    def connect(self, resource: str) -> None:
        """A plugin registered; until its first list the devices stay as they were."""
        entry = self._resources.setdefault(resource, _Resource())
        entry.stopped_at = None
        entry.forgotten = False

    def replace(self, resource: str, devices: Collection[PluginDevice]) -> None:
        entry = self._resources[resource]
        entry.healthy = {device.id for device in devices if device.healthy}
        entry.unhealthy = {device.id for device in devices if not device.healthy}
        entry.numa = {device.id: device.numa for device in devices if device.numa}

    def lose(self, resource: str, now: float) -> None:
        """The plugin is gone: nothing is healthy any more."""
        entry = self._resources[resource]
        entry.unhealthy |= entry.healthy
        entry.healthy = set()
        entry.stopped_at = now

    def expire(self, now: float, grace_s: float) -> list[str]:
        """Forget the resources whose plugin has been gone for too long, and name them."""
        expired = [
            name
            for name, entry in self._resources.items()
            if not entry.forgotten
            and entry.stopped_at is not None
            and now - entry.stopped_at > grace_s
        ]
        for name in expired:
            self._resources[name] = _Resource(stopped_at=now, forgotten=True)
        return expired

    def names(self) -> tuple[str, ...]:
        """Every resource the node shows, forgotten ones too."""
        return tuple(self._resources)

    def registered(self, resource: str) -> bool:
        """Whether the kubelet has it as a device plugin resource, be its plugin there or not."""
        entry = self._resources.get(resource)
        return entry is not None and not entry.forgotten

    def connected(self, resource: str) -> bool:
        entry = self._resources.get(resource)
        return entry is not None and entry.stopped_at is None

    def healthy(self, resource: str) -> frozenset[str]:
        entry = self._resources.get(resource)
        return frozenset(entry.healthy) if entry else frozenset()

    def healthy_by_resource(self) -> dict[str, list[str]]:
        """What a checkpoint keeps of the devices."""
        return {
            name: sorted(entry.healthy)
            for name, entry in self._resources.items()
            if not entry.forgotten
        }

    def numa(self, resource: str) -> Mapping[str, tuple[int, ...]]:
        """The NUMA nodes of each device that has some."""
        entry = self._resources.get(resource)
        return entry.numa if entry else {}

    def count(self, resource: str) -> tuple[int, int]:
        """Capacity and allocatable, as the node shows them."""
        entry = self._resources.get(resource)
        if entry is None:
            return 0, 0
        return len(entry.healthy) + len(entry.unhealthy), len(entry.healthy)
