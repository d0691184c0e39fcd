# SPDX-License-Identifier: Apache-2.0
"""Which folders nothing is taken from: our own, and those that a rule or their owner keeps. Asks a
folder for one name, and decides nothing else.
"""

from __future__ import annotations

import os

from fuse_mounter.scratch.ages import Ages
from fuse_mounter.scratch.config import ScratchRule
from fuse_mounter.scratch.outcome import Skipped
from fuse_mounter.scratch.walk import Folder

#: Our own directory, below the rule's.
DIRECTORY = ".nodeshare-scratch"


class Keeping:
    """By one rule."""

    def __init__(self, rule: ScratchRule, ages: Ages) -> None:
        self._keep_file, self._ages = rule.keep_file, ages

    def is_ours(self, folder: Folder) -> bool:
        """By its owner too: a user may call his folders what he likes, and keeps nothing by it."""
        if folder.depth != 1 or folder.name != DIRECTORY:
            return False
        return folder.status.st_uid == os.geteuid() and not folder.status.st_mode & 0o077

    def why(self, folder: Folder) -> Skipped | None:
        """None: it may be looked at. In doubt it is kept."""
        if self._ages.keeps_all_below(folder.path):
            return Skipped.KEPT
        if self._keep_file is None:
            return None
        try:
            os.stat(self._keep_file, dir_fd=folder.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError:
            return Skipped.UNREADABLE
        return Skipped.KEPT
