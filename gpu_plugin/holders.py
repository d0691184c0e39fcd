# SPDX-License-Identifier: Apache-2.0
"""Who holds which units, from what podresources lists. Pure; knows no rule: ids of our form are
counted whatever resource they are of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpu_plugin import units

if TYPE_CHECKING:  # it loads gRPC, which a look at a machine does not need
    from agents.podresources import PodDevices


@dataclass(frozen=True, slots=True)
class Holder:
    """A container that holds units of one device, of one resource."""

    namespace: str
    pod: str
    container: str
    resource: str
    units: int


#: (resource, device) → who holds how much.
Holders = Mapping[tuple[str, str], tuple[Holder, ...]]


def holders_of(pods: Sequence[PodDevices]) -> Holders:
    """Who holds units of what, of all resources whose ids have our form."""
    found: dict[tuple[str, str], list[Holder]] = {}
    for pod in pods:
        for container, resources in pod.containers.items():
            for resource, ids in resources.items():
                for uuid, count in units.count(ids).items():
                    holder = Holder(pod.namespace, pod.name, container, resource, count)
                    found.setdefault((resource, uuid), []).append(holder)
    return {key: tuple(holders) for key, holders in found.items()}


def held_sets(pods: Sequence[PodDevices]) -> dict[str, list[frozenset[str]]]:
    """The exact units of each container, by resource, of all resources whose ids have our form."""
    found: dict[str, list[frozenset[str]]] = {}
    for pod in pods:
        for container in pod.containers.values():
            for resource, ids in container.items():
                if units.count(ids):
                    found.setdefault(resource, []).append(frozenset(ids))
    return found
