# SPDX-License-Identifier: Apache-2.0
"""The whole file system, and its housekeeping: inodes that nobody needs are let go."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pyfuse3
import trio

from agents import mountinfo
from agents.hostfs import PROC
from fuse_mounter.passthrough.attributes import Attributes
from fuse_mounter.passthrough.files import Files
from fuse_mounter.passthrough.inodes import Inode
from fuse_mounter.passthrough.listings import Listings
from fuse_mounter.passthrough.names import Names
from fuse_mounter.passthrough.storage import distant
from fuse_mounter.passthrough.tree import Settings

_log = logging.getLogger(__name__)

#: Removed below, and still holding space: for this long at most.
SWEEP_S = 60.0
_SWEEP_STEP = 500
_SWEEP_PAUSE_S = 0.1
#: Letting go of directories drops all that the kernel knows of the mount and nobody uses.
_SHRINK_EVERY_S = 1.0


class Passthrough(Names, Listings, Files, Attributes):
    """All handlers. `shrink` makes the kernel forget what nobody uses; it may block, and is called
    in a thread.
    """

    def __init__(self, root: int, settings: Settings, shrink: Callable[[], None]) -> None:
        super().__init__(root, settings)
        self._shrink = shrink
        self._shrunk_at = 0.0
        self.storage.distant = self._distant()

    async def housekeeping(self, every_s: float) -> None:
        """Sweep, and at once when there are too many inodes. Never returns, and never raises: the
        mount goes on without it.
        """
        while True:
            try:
                await self._keep_house(every_s)
            except Exception as error:  # noqa: BLE001 -- the mount is not to end for it
                _log.error("housekeeping failed", exc_info=error)
                await trio.sleep(every_s)

    async def _keep_house(self, every_s: float) -> None:
        self.storage.distant = self._distant()
        with trio.move_on_after(every_s) as patience:
            await self.too_many.wait()
        self.too_many = trio.Event()
        await self.sweep(again=patience.cancelled_caught)
        if self.crowded:  # the kernel is still at it, or all are in use
            await trio.sleep(_SWEEP_PAUSE_S)
        if self.crowded:
            # Directories, then. Asking for one by name would take away the path of whoever works
            # there, and what is mounted inside.
            await trio.sleep_until(self._shrunk_at + _SHRINK_EVERY_S)
            await self.storage.slow(self._shrink)
            self._shrunk_at = trio.current_time()

    async def sweep(self, *, again: bool) -> None:
        """Ask the kernel to let go of files that were removed below, whose space our descriptors
        would hold, and of the oldest files when there are too many; `again`: also of those that it
        was asked for before.
        """
        inodes = list(self.inodes)
        to_spare = len(inodes) - self._most_inodes * 3 // 4 if self.crowded else 0
        for start in range(0, len(inodes), _SWEEP_STEP):
            await trio.lowlevel.checkpoint()
            some = inodes[start : start + _SWEEP_STEP]
            removed = await self.storage.call(_removed, some)
            for inode in some:
                if inode.let_go and not again:
                    to_spare -= 1
                elif _idle(inode) and (to_spare > 0 or inode in removed):
                    # By a thread: this call would wait for handlers that only we can run.
                    pyfuse3.invalidate_entry_async(
                        inode.parent, pyfuse3.FileNameT(inode.name), ignore_enoent=True
                    )
                    inode.let_go = True
                    to_spare -= 1

    def _distant(self) -> bool:
        """Whether something that is served now is no local file system."""
        try:
            return distant(mountinfo.read(PROC), str(Path(self.inodes.root.path).readlink()))
        except OSError:
            return True


def _idle(inode: Inode) -> bool:
    return not inode.directory and not inode.handles and inode.lookups > 0


def _removed(inodes: Sequence[Inode]) -> set[Inode]:
    """Those that have no name any more."""
    found = set()
    for inode in inodes:
        with contextlib.suppress(OSError):  # it was forgotten between two steps
            if os.fstat(inode.descriptor).st_nlink == 0:
                found.add(inode)
    return found
