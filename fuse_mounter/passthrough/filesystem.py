# SPDX-License-Identifier: Apache-2.0
"""The whole file system, and its housekeeping: inodes that nobody needs are let go."""

from __future__ import annotations

import os

import pyfuse3
import trio

from fuse_mounter.passthrough.attributes import Attributes
from fuse_mounter.passthrough.files import Files
from fuse_mounter.passthrough.inodes import Inode
from fuse_mounter.passthrough.names import Names

#: Removed below, and still holding space: for this long at most.
SWEEP_S = 60.0
_SWEEP_STEP = 500
_SWEEP_PAUSE_S = 0.1


class Passthrough(Names, Files, Attributes):
    """All handlers."""

    async def housekeeping(self, every_s: float) -> None:
        """Sweep, and at once when there are too many inodes. Never returns."""
        while True:
            with trio.move_on_after(every_s) as patience:
                await self.too_many.wait()
            self.too_many = trio.Event()
            await self.sweep(again=patience.cancelled_caught)
            if self.crowded:  # the kernel is still at it, or all are in use
                await trio.sleep(_SWEEP_PAUSE_S)

    async def sweep(self, *, again: bool) -> None:
        """Ask the kernel to let go of files that were removed below, whose space our descriptors
        would hold, and of the oldest files when there are too many; `again`: also of those that it
        was asked for before.
        """
        inodes = list(self.inodes)
        to_spare = len(inodes) - self._most_inodes * 3 // 4 if self.crowded else 0
        for position, inode in enumerate(inodes):
            if position % _SWEEP_STEP == 0:
                await trio.lowlevel.checkpoint()
            if inode.let_go and not again:
                to_spare -= 1
            elif _idle(inode) and (to_spare > 0 or _removed(inode)):
                # By a thread of pyfuse3: this call would wait for handlers that only we can run.
                pyfuse3.invalidate_entry_async(
                    inode.parent, pyfuse3.FileNameT(inode.name), ignore_enoent=True
                )
                inode.let_go = True
                to_spare -= 1


def _idle(inode: Inode) -> bool:
    return not inode.directory and not inode.handles and inode.lookups > 0


def _removed(inode: Inode) -> bool:
    try:
        return os.fstat(inode.descriptor).st_nlink == 0
    except OSError:
        return False  # it was forgotten between two steps
