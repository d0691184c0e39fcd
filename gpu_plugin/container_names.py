# SPDX-License-Identifier: Apache-2.0
"""What people call a container, and what the kubelet and the runtime say that it holds. Pure; knows
no socket and no procfs.

The runtime knows a container's id, and with it names, labels and annotations; podresources knows
names and units, and no id. Either may not answer: then what the other tells is all there is, and
nothing is made up for the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpu_plugin import units
from gpu_plugin.accounting import ContainerNames
from gpu_plugin.identity import digest

if TYPE_CHECKING:  # they load gRPC, which a decision does not need
    from agents.containers import Container
    from agents.podresources import PodDevices

_Names = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Told:
    """What the two sockets told last. `by_id`: names of running containers, from the runtime.
    `by_digest`: who holds units, by the digest that is in the names of allocations; with several
    nobody is meant. `held`: digests by namespace, pod and container.
    """

    by_id: Mapping[str, ContainerNames] = field(default_factory=dict)
    by_digest: Mapping[str, ContainerNames | None] = field(default_factory=dict)
    held: Mapping[_Names, frozenset[str]] = field(default_factory=dict)

    def names(self, container_id: str, digests: Iterable[str]) -> ContainerNames | None:
        """Of a container that carries allocations with these digests."""
        if container_id in self.by_id:
            return self.by_id[container_id]
        found = {
            (names.namespace, names.pod, names.container): names
            for one in digests
            if (names := self.by_digest.get(one)) is not None
        }
        return next(iter(found.values())) if len(found) == 1 else None

    def holds(self, container_id: str) -> frozenset[str]:
        """Digests of what the kubelet says this container holds; needs both sockets."""
        names = self.by_id.get(container_id)
        if names is None:
            return frozenset()
        return self.held.get((names.namespace, names.pod, names.container), frozenset())


def told(containers: Collection[Container] | None, pods: Collection[PodDevices] | None) -> Told:
    """None: the runtime, or the kubelet, does not answer."""
    siblings = _siblings(containers or (), pods or ())
    by_id = {
        one.id: ContainerNames(
            one.pod.namespace,
            one.pod.name,
            one.name,
            one.pod.labels,
            one.pod.annotations,
            siblings.get((one.pod.namespace, one.pod.name), frozenset()),
        )
        for one in containers or ()
    }
    by_digest: dict[str, ContainerNames | None] = {}
    held: dict[_Names, frozenset[str]] = {}
    for pod in pods or ():
        for container, resources in pod.containers.items():
            names = ContainerNames(pod.namespace, pod.name, container)
            found = {
                digest(resource, units.group(ours))
                for resource, ids in resources.items()
                if (ours := [one for one in ids if units.is_ours(one)])
            }
            for one in found:
                by_digest[one] = None if one in by_digest else names
            if found:
                held[pod.namespace, pod.name, container] = frozenset(found)
    return Told(by_id, by_digest, held)


def _siblings(
    containers: Iterable[Container], pods: Iterable[PodDevices]
) -> dict[tuple[str, str], frozenset[str]]:
    """By namespace and pod: the kubelet lists those that are to come, the runtime those that end
    before the others start.
    """
    found = {(pod.namespace, pod.name): frozenset(pod.containers) for pod in pods}
    for one in containers:
        pod = (one.pod.namespace, one.pod.name)
        if pod in found:
            found[pod] |= {one.name}
    return found
