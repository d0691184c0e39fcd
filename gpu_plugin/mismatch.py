# SPDX-License-Identifier: Apache-2.0
"""Where the kubelet's word on who holds units and what is seen on this node differ. Pure.

The kubelet can believe units taken that no container uses (after pods were deleted by force, until
it is restarted), and free ones that a container still uses. Ends nothing and corrects nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from gpu_plugin import units
from gpu_plugin.identity import Allocation, digest

#: Unit sets by resource, one for each container that podresources lists.
Held = Mapping[str, Iterable[frozenset[str]]]


class MismatchKind(enum.Enum):
    """`unrecorded`: the kubelet lists units that we have no record of; `unlisted`: a process
    carries units that the kubelet does not list; `unmounted`: the kubelet lists units whose
    directory no process carries (also a container that waits to be started again).
    """

    UNRECORDED = "unrecorded"
    UNLISTED = "unlisted"
    UNMOUNTED = "unmounted"


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One container's units about which the two differ; `digest` stands for them."""

    kind: MismatchKind
    resource: str
    digest: str


def digests(held: Held) -> dict[str, tuple[str, frozenset[str]]]:
    """What the kubelet lists, by the digest that is in the names of directories. Ids of another
    form, which a plugin brings that has our resource's name, are passed over.
    """
    found = {}
    for resource, sets in held.items():
        for ids in sets:
            ours = frozenset(filter(units.is_ours, ids))
            found[digest(resource, units.group(ours))] = (resource, ours)
    return found


def mismatches(
    recorded: Iterable[Allocation], mounted: Set[str], held: Held
) -> frozenset[Mismatch]:
    """`mounted` are the names of the allocations that processes carry."""
    listed = digests(held)
    known = {allocation.digest: allocation.resource for allocation in recorded}
    carried = {allocation.digest for allocation in recorded if allocation.name in mounted}
    found = [Mismatch(MismatchKind.UNLISTED, known[one], one) for one in carried - listed.keys()]
    for one, (resource, _) in listed.items():
        if one not in known:
            found.append(Mismatch(MismatchKind.UNRECORDED, resource, one))
        elif one not in carried:
            found.append(Mismatch(MismatchKind.UNMOUNTED, resource, one))
    return frozenset(found)
