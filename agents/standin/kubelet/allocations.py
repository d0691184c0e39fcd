# SPDX-License-Identifier: Apache-2.0
"""Who holds which device ids, and what the plugin answered for them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

#: The key for ids without topology, here as in the kubelet's checkpoint.
NO_NUMA = -1


@dataclass(frozen=True, slots=True)
class Allocation:
    """The ids of one resource in one container. `answer` is what the plugin said, serialised."""

    pod_uid: str
    container: str
    resource: str
    ids_by_numa: Mapping[int, tuple[str, ...]]
    answer: bytes

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(id_ for ids in self.ids_by_numa.values() for id_ in ids)


def by_numa(
    ids: Iterable[str], numa: Mapping[str, tuple[int, ...]]
) -> Mapping[int, tuple[str, ...]]:
    """Ids by NUMA node; an id near two nodes is under both, one without topology under
    `NO_NUMA`."""
    found: dict[int, list[str]] = {}
    for id_ in ids:
        for node in numa.get(id_) or (NO_NUMA,):
            found.setdefault(node, []).append(id_)
    return {node: tuple(node_ids) for node, node_ids in found.items()}


class Allocations:
    """All allocations of the node, by pod uid, container and resource. Not thread-safe."""

    def __init__(self, known: Iterable[Allocation] = ()) -> None:
        self._known = {(one.pod_uid, one.container, one.resource): one for one in known}

    def add(self, allocation: Allocation) -> None:
        key = (allocation.pod_uid, allocation.container, allocation.resource)
        self._known[key] = allocation

    def keep_pods(self, uids: Iterable[str]) -> bool:
        """Free what other pods hold; whether there was anything."""
        kept = set(uids)
        gone = [key for key in self._known if key[0] not in kept]
        for key in gone:
            del self._known[key]
        return bool(gone)

    def free_pod(self, uid: str) -> bool:
        """Whether it held anything."""
        gone = [key for key in self._known if key[0] == uid]
        for key in gone:
            del self._known[key]
        return bool(gone)

    def get(self, pod_uid: str, container: str, resource: str) -> Allocation | None:
        return self._known.get((pod_uid, container, resource))

    def of_container(self, pod_uid: str, container: str) -> tuple[Allocation, ...]:
        """In the order in which they were given."""
        return tuple(one for key, one in self._known.items() if key[:2] == (pod_uid, container))

    def in_use(self, resource: str) -> set[str]:
        return {id_ for one in self._known.values() if one.resource == resource for id_ in one.ids}

    def all(self) -> tuple[Allocation, ...]:
        return tuple(self._known.values())
