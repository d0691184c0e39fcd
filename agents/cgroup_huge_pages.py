# SPDX-License-Identifier: Apache-2.0
"""Huge pages of a cgroup, as v1 and as v2 count them: the hugetlb controller.

They are charged apart from other memory, and where the controller is missing nobody counts them.
"""

from __future__ import annotations

from collections.abc import Sequence

from agents.cgroup_formats import HugePages
from agents.cgroup_tree import Directory

_NAMES = {1: ("limit_in_bytes", "usage_in_bytes"), 2: ("max", "current")}


def huge_pages(chain: Sequence[Directory], version: int, size_kib: int) -> HugePages | None:
    """Of this size. `chain`: own directory first, root last; None: nobody counts them."""
    if len(chain) < 2:  # the root's are everybody's
        return None
    limit, used = (f"hugetlb.{_size(size_kib)}.{name}" for name in _NAMES[version])
    now = chain[0].number(used)
    if now is None:
        return None
    limits = [level.limit(limit) for level in chain[:-1]]
    return HugePages(min((one for one in limits if one is not None), default=None), now)


def _size(kib: int) -> str:
    """As the kernel names it (mem_fmt in mm/hugetlb_cgroup.c)."""
    for factor, unit in ((1 << 20, "GB"), (1 << 10, "MB")):
        if kib >= factor:
            return f"{kib // factor}{unit}"
    return f"{kib}KB"
