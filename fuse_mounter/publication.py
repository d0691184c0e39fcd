# SPDX-License-Identifier: Apache-2.0
"""One name under which pods see a mount: all of it, or a folder in it. Pure values.

A mount has one for its own path, and one for each entry of `publish`. Knows no owner and no mode:
those are `shared_folders`' affair.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fuse_mounter.observed import Shown


@dataclass(frozen=True, slots=True)
class SharedStatus:
    """How it stands with one entry of `publish`. `mended`: how often something was set there."""

    path: str
    folder: str
    read_only: bool
    published: bool
    problem: str | None
    mended: int


@dataclass(frozen=True, slots=True)
class Publication:
    """`path` is below the root, `folder` within the mount (empty: all of it). `read_only`: on the
    node's side, the only place where it holds for pods.

    `ready`: staging directories of which a copy of the folder is at hand, made aside because
    looking for it may take long; without a folder none is needed. `problem`: why the folder cannot
    be shown, or is not as it shall be; None: nothing is known against it. `paused`: to attach it
    failed not long ago. `elsewhere`: another folder was found to be shown, where the mount table
    does not tell them apart.
    """

    path: str
    folder: str = ""
    read_only: bool = False
    ready: frozenset[str] = frozenset()
    problem: str | None = None
    paused: bool = False
    elsewhere: bool = False

    def shows(self, whole: Shown | None) -> Shown | None:
        """What a mount table says here when the mount as a whole shows this; None: nothing yet."""
        if whole is None or not (self.folder or self.read_only):
            return whole
        named = self.folder and whole.tells_root
        root = f"{whole.root.rstrip('/')}/{self.folder}" if named else whole.root
        return replace(whole, root=root, read_only=whole.read_only or self.read_only)

    def at_hand(self, staging: str) -> bool:
        """Whether it can be attached now."""
        return not self.paused and (not self.folder or staging in self.ready)
