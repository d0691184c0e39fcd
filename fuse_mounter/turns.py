# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is to begin: so many mounts of a node at once, and a server that is away never in
the way of the others. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fuse_mounter.observed import Instance, Observation
from fuse_mounter.plan import Want
from fuse_mounter.steps import Action, Start

#: What begins takes so long at most to be in the way of others that would begin too; what takes
#: longer waits for something outside this node.
BUSY_S = 5.0


def beginning(wants: Sequence[Want], seen: Observation) -> frozenset[str]:
    """Mounts that begin in this moment."""
    return frozenset(one.name for one in _begun(wants, seen) if one.age_s < BUSY_S)


def in_turn(
    actions: Sequence[Action], wants: Sequence[Want], seen: Observation, at_once: int
) -> tuple[list[Action], frozenset[str]]:
    """The actions without the starts that have to wait for their turn, and the names of those.

    First come those whose server has the fewest under way, however long these take already; and
    one server never has all the turns, unless there is but one.
    """
    servers = {want.name: want.server or f"mount {want.name}" for want in wants}
    busy = beginning(wants, seen)
    under_way = Counter(servers[one.name] for one in _begun(wants, seen))
    taken = Counter(servers[name] for name in busy)
    room, share = at_once - len(busy), max(1, at_once - 1)
    waiting = [action.name for action in actions if isinstance(action, Start)]
    begins = set()
    while room > 0:
        may = [name for name in waiting if taken[servers[name]] < share]
        if not may:
            break
        name = min(may, key=lambda one: under_way[servers[one]])
        waiting.remove(name)
        begins.add(name)
        room -= 1
        under_way[servers[name]] += 1
        taken[servers[name]] += 1
    kept = [one for one in actions if not isinstance(one, Start) or one.name in begins]
    return kept, frozenset(waiting)


def _begun(wants: Sequence[Want], seen: Observation) -> list[Instance]:
    names = {want.name for want in wants}
    return [
        one
        for one in seen.instances
        if one.name in names and one.under_way and (one.running or one.pending)
    ]
