# SPDX-License-Identifier: Apache-2.0
"""Remove one file or one empty folder, after a last look: it is still the same, still unused, and
still where the walk found it. Effects only.

Between that look and the removal another file could take its name: unlinkat(2) knows no condition.
That is microseconds, and the file it could hit lies in the same folder of the same user.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fuse_mounter.scratch.ages import LastUse
from fuse_mounter.scratch.outcome import Skipped
from fuse_mounter.scratch.walk import BROKEN, Folder


@dataclass(frozen=True, slots=True)
class File:
    """Anything but a folder: `status` as the walk found it."""

    folder: Folder
    name: str
    status: os.stat_result

    @property
    def path(self) -> str:
        return self.folder.of(self.name)


class Remover:
    """For one root. `is_open` says whether an inode is in use on this node."""

    def __init__(
        self, root: Folder, proc: Path, last_use: LastUse, is_open: Callable[[int], bool]
    ) -> None:
        self._proc, self._last_use, self._is_open = proc, last_use, is_open
        self._place = self._where(root)

    def why_not(self, file: File, unused_since: float) -> Skipped | None:
        """None: it may go. `unused_since`: its last use must not be later."""
        if not self._in_place(file.folder):
            return Skipped.MOVED
        try:
            now = os.stat(file.name, dir_fd=file.folder.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return Skipped.CHANGED
        except OSError:
            return Skipped.REFUSED
        if _same(now) != _same(file.status) or self._last_use(now) > unused_since:
            return Skipped.CHANGED
        return Skipped.OPEN if self._is_open(now.st_ino) else None

    def remove(self, file: File, unused_since: float) -> Skipped | None:
        """None: it is gone."""
        if (why := self.why_not(file, unused_since)) is not None:
            return why
        try:
            os.unlink(file.name, dir_fd=file.folder.descriptor)
        except FileNotFoundError:
            return Skipped.CHANGED
        except OSError as error:
            if error.errno in BROKEN:
                raise
            return Skipped.REFUSED
        return None

    def remove_folder(self, folder: Folder) -> bool:
        """Whether it was empty and is gone. A folder that is not empty cannot be removed at all."""
        parent = folder.parent
        if parent is None or not self._in_place(parent) or self._is_open(folder.status.st_ino):
            return False
        try:
            now = os.stat(folder.name, dir_fd=parent.descriptor, follow_symlinks=False)
            if (now.st_ino, now.st_dev) != (folder.status.st_ino, folder.status.st_dev):
                return False
            os.rmdir(folder.name, dir_fd=parent.descriptor)
        except OSError:
            return False
        return True

    def _in_place(self, folder: Folder) -> bool:
        """Whoever moves a folder out of scratch while we are in it has taken it away from us."""
        expected = f"{self._place}/{folder.path}" if folder.path else self._place
        try:
            return self._where(folder) == expected
        except OSError:  # a path that is too long for the kernel to tell
            return False

    def _where(self, folder: Folder) -> str:
        return os.readlink(f"{self._proc}/self/fd/{folder.descriptor}")  # noqa: PTH115 -- a Path would lose what the kernel says of a folder that is gone


def _same(status: os.stat_result) -> tuple[int, int, int, int]:
    """Differs for another file, and for this one after a change (an inode number is used again, and
    a time of modification can be set; that of the last change of status cannot).
    """
    return status.st_dev, status.st_ino, stat.S_IFMT(status.st_mode), status.st_ctime_ns
