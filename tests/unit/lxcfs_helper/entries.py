# SPDX-License-Identifier: Apache-2.0
"""Mount table entries to decide by."""

from __future__ import annotations

from agents.mountinfo import MountEntry


def entry(
    *,
    source: str = "nodeshare-views:/views",
    fstype: str = "tmpfs",
    root: str = "/id/meminfo",
    device: tuple[int, int] = (0, 50),
) -> MountEntry:
    """One of ours over /proc/meminfo, unless told otherwise."""
    return MountEntry(
        mount_id=1,
        parent_id=0,
        device=device,
        root=root,
        mount_point="/proc/meminfo",
        options=frozenset({"ro"}),
        shared=None,
        master=None,
        fstype=fstype,
        source=source,
        super_options=frozenset(),
    )
