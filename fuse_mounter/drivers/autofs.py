# SPDX-License-Identifier: Apache-2.0
"""Places that an automounter serves (autofs(8), systemd, CVMFS): known from the mount table alone,
since whoever looks at one waits for its daemon. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agents import mountinfo
from agents.mountinfo import MountEntry

_FSTYPE = "autofs"


def any_in(table: Sequence[MountEntry]) -> bool:
    """Whether this node has one at all."""
    return any(entry.fstype == _FSTYPE for entry in table)


def directory_at(table: Sequence[MountEntry], place: Path) -> MountEntry | None:
    """The automounter whose directory this is: names in it are mounted when somebody asks for them.
    A copy of it would ask the daemon, who mounts them in the original, so everybody who goes into
    the copy would get ELOOP ("Too many levels of symbolic links").
    """
    stack = mountinfo.at(table, place)
    if not stack or stack[-1].fstype != _FSTYPE or "indirect" not in stack[-1].super_options:
        return None
    return stack[-1]


def waits_for(table: Sequence[MountEntry], path: Path) -> MountEntry | None:
    """The automounter that whoever looks at this path has to wait for; None: nobody."""
    found = mountinfo.covering(table, path)
    return found if found is not None and found.fstype == _FSTYPE else None
