# SPDX-License-Identifier: Apache-2.0
"""Which device ids a container gets. Pure: the plugin's preference comes in as a function.

The order of steps is the kubelet's: the aligned ids, then what the plugin prefers, then anything
that is free, at random. Without topology alignment the plugin is always asked.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

#: Offered ids, ids that must be included, size of the answer -> preferred ids; None: it is not
#: asked.
Prefer = Callable[[Sequence[str], Sequence[str], int], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The ids, in arbitrary order, and what was wrong with the plugin's preference (None:
    nothing)."""

    ids: tuple[str, ...]
    repaired: str | None = None


def choose(
    free: Collection[str],
    size: int,
    prefer: Prefer | None,
    *,
    rng: random.Random,
    aligned: Collection[str] = (),
) -> Chosen:
    """`size` of the free ids, which must be enough. `aligned`: near the wanted NUMA node."""
    near = set(aligned) & set(free)
    included = [] if size < len(near) else sorted(near)
    if len(included) >= size:
        return Chosen(_shuffled(included[:size], rng))
    offered = sorted(near) if size < len(near) else sorted(free)
    rng.shuffle(offered)
    if prefer is None:
        wanted, repaired = [], None
    else:
        answer = prefer(offered, included, size)
        wanted = _intersection(answer, offered, included)
        repaired = _complaint(answer, offered, size)
    ids = [*included, *wanted][:size]
    taken = set(ids)
    ids += [id_ for id_ in offered if id_ not in taken][: size - len(ids)]
    return Chosen(_shuffled(ids, rng), repaired)


def near_node(
    free: Collection[str], numa: Mapping[str, tuple[int, ...]], node: int | None
) -> list[str]:
    """The ids that the topology says are near this NUMA node; none without an alignment."""
    return [] if node is None else [id_ for id_ in free if node in numa.get(id_, ())]


def _intersection(
    answer: Sequence[str], offered: Collection[str], included: Collection[str]
) -> list[str]:
    known = set(offered) - set(included)
    return [id_ for id_ in dict.fromkeys(answer) if id_ in known]


def _complaint(answer: Sequence[str], offered: Collection[str], size: int) -> str | None:
    if foreign := set(answer) - set(offered):
        return f"preferred {len(foreign)} ids that were not offered, such as {min(foreign)!r}"
    if (given := len(set(answer))) != size:
        end = "the rest is chosen at random" if given < size else "some of them are dropped"
        return f"preferred {given} ids where {size} were asked; {end}"
    return None


def _shuffled(ids: Sequence[str], rng: random.Random) -> tuple[str, ...]:
    # The kubelet's sets have no order; a plugin must not rely on any.
    shuffled = list(ids)
    rng.shuffle(shuffled)
    return tuple(shuffled)
