# SPDX-License-Identifier: Apache-2.0
"""How old the files are that have to go so that enough space gets free: a look at all of them
beforehand, in memory that does not grow with their number, and a pure decision.
"""

from __future__ import annotations

import math
import stat
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from pathlib import Path

from fuse_mounter.scratch.ages import Ages, last_use
from fuse_mounter.scratch.config import ScratchRule
from fuse_mounter.scratch.keeping import Keeping
from fuse_mounter.scratch.walk import Files, Folder, walk

#: Upper bounds of ages, each 2 % more than the one before: so exactly the oldest go first.
_STEPS = tuple(3600.0 * 1.02**step for step in range(700))

#: Files and bytes by step of age.
Ageing = Mapping[int, tuple[int, int]]


def survey(
    root: Folder, proc: Path, rule: ScratchRule, now: float, mounts: frozenset[str] = frozenset()
) -> Iterator[Ageing]:
    """Yielded again and again while it grows; the last one is whole. Counts what a run may remove:
    not what a rule or its owner keeps, nor what has other names and would free nothing.
    """
    ages, use = Ages(rule), last_use(rule.clock)
    keeping = Keeping(rule, ages)
    found = dict[int, tuple[int, int]]()

    def enter(folder: Folder) -> bool:
        return not keeping.is_ours(folder) and keeping.why(folder) is None

    for each in walk(root, proc, enter, mounts):
        if isinstance(each, Files) and (each.folder.depth or not rule.users):
            for name, status in each.entries:
                size = status.st_blocks * 512
                plain = status.st_nlink == 1 and stat.S_ISREG(status.st_mode)
                if plain and ages.of(each.folder.of(name), size) != math.inf:
                    step = bisect_left(_STEPS, max(0.0, now - use(status)))
                    files, total = found.get(step, (0, 0))
                    found[step] = files + 1, total + size
        yield found
    yield found


def full_since(
    ageing: Ageing, needed: int, now: float, not_within_s: float, most_files: int
) -> float | None:
    """Last uses before this go, so that `needed` bytes get free, the oldest first, and of no more
    files than one run may remove; None: nothing has to go, or nothing may.
    """
    if needed <= 0 or not ageing:
        return None
    gained = count = 0
    for step in sorted(ageing, reverse=True):
        youngest = _STEPS[step - 1] if step else 0.0
        if youngest < not_within_s:
            break
        files, size = ageing[step]
        gained, count = gained + size, count + files
        if gained >= needed or count >= most_files:
            return now - youngest
    return now - not_within_s
