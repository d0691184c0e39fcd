# SPDX-License-Identifier: Apache-2.0
"""Honest capacity: which free units of a device no pod can use, given what pods ask for. Pure.

The scheduler sees one number a node: with 150 units free on each of two GPUs it binds a pod that
asks for 200 here, where it is rejected for good. Units that are shown unhealthy are taken off that
number. A hint, no lock: the node object follows the kubelet up to ten seconds later.
"""

from __future__ import annotations

import functools
from collections.abc import Set


def withheld(units: int, in_use: Set[int], sizes: tuple[int, ...]) -> frozenset[int]:
    """Of units 0 to `units` - 1 the free ones to show as unhealthy, never one in use: those with
    the highest numbers, because the lowest are given out first and the list then stays as it is.
    """
    free = sorted(set(range(units)).difference(in_use))
    return frozenset(free[usable(len(free), sizes) :])


@functools.lru_cache(maxsize=1024)
def usable(free: int, sizes: tuple[int, ...]) -> int:
    """How many of `free` units requests of these sizes can use up together, at best."""
    # Bit n of `reached`: some requests add up to n. Doubling the number of repeats in each round.
    reached, mask = 1, (1 << (free + 1)) - 1
    for size in sizes:
        step = size
        while step <= free:
            reached |= (reached << step) & mask
            step *= 2
    return reached.bit_length() - 1
