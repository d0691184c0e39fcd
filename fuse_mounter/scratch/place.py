# SPDX-License-Identifier: Apache-2.0
"""Where a rule's directory is, and whether it is what it should be: a mount that answers, and never
the read-only anchor or the bare directory of the node below it. Looks at the mount table alone
until that is certain.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agents import mountinfo
from agents.errors import AgentError
from agents.mountinfo import MountEntry
from fuse_mounter.observe import is_anchor
from fuse_mounter.scratch.config import ScratchRule


@dataclass(frozen=True, slots=True)
class Place:
    """`base` is the administrator's directory, `folder` the part of it that is meant (None: all),
    and `entry` the mount in which it lies. `mounts` are paths below it where something is mounted.
    """

    base: Path
    folder: str | None
    entry: MountEntry
    mounts: frozenset[str]

    @property
    def path(self) -> Path:
        return self.base if self.folder is None else self.base / self.folder


def place_of(rule: ScratchRule, published: Path | None, table: Sequence[MountEntry]) -> Place:
    """`published`: where pods see the rule's mount (None: the rule names a directory, whose links
    are followed). Raises AgentError when nothing must be removed there.
    """
    if published is None:
        assert rule.directory is not None
        return _place(Path(os.path.realpath(rule.directory)), rule, table)
    stack = mountinfo.at(table, published)
    if not stack or is_anchor(stack[-1]):
        raise AgentError(
            f"the mount {rule.mount!r} is not there: {str(published)!r} holds nothing of it",
            remedy="see `nodeshare mounts ls`; an empty place is never cleaned",
        )
    return _place(published, rule, table)


def _place(base: Path, rule: ScratchRule, table: Sequence[MountEntry]) -> Place:
    whole = base if rule.folder is None else base / rule.folder
    entry = mountinfo.covering(table, whole)
    if entry is None or is_anchor(entry):
        raise AgentError(
            f"nothing is mounted at {str(whole)!r}",
            remedy="an empty place is never cleaned; mount it, or take the rule away",
        )
    if rule.file_system is not None and entry.fstype != rule.file_system:
        raise AgentError(
            f"{str(whole)!r} lies on {entry.fstype} (mounted at {entry.mount_point!r}), and not on "
            f"{rule.file_system}",
            remedy="what should be mounted there is not; nothing is cleaned until it is",
        )
    if rule.armed and entry.read_only:
        raise AgentError(
            f"{str(whole)!r} is mounted read-only",
            remedy="nothing can be removed there; take the rule away, or name the other place",
        )
    below = (Path(one.mount_point) for one in mountinfo.below(table, whole))
    inside = frozenset(str(one.relative_to(whole)) for one in below if one != whole)
    return Place(base, rule.folder, entry, inside)
