# SPDX-License-Identifier: Apache-2.0
"""Size classes: several resources whose units are blocks of one size, on the same devices. Pure.

A device has one pool of memory for all its classes. Each class offers the blocks that pods hold,
and as many more as fit into what is left: the sum over the devices is then exactly what the
scheduler can still place, one block at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Set


def left(pool: int, taken: Iterable[tuple[int, int]]) -> int:
    """Bytes of a pool that no block holds; `taken` is (blocks, bytes of one) by class. Less than 0
    when more counts than there is (a pool that was made smaller under running pods).
    """
    return pool - sum(blocks * size for blocks, size in taken)


def withheld(blocks: int, in_use: Set[int], fitting: int) -> frozenset[int]:
    """Of blocks 0 to `blocks` - 1 those to show as unhealthy: all free ones after the first
    `fitting`. What was offered before stays offered as long as it fits.
    """
    return frozenset(sorted(set(range(blocks)).difference(in_use))[max(0, fitting) :])
