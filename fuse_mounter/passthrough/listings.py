# SPDX-License-Identifier: Apache-2.0
"""Handlers about open directories: names with the inodes behind them, as many as fit a reply.

Knows nothing of what is done to a name.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pyfuse3
from pyfuse3 import FileHandleT, FileNameT, InodeT, ModeT

from fuse_mounter.passthrough.inodes import Inode, key_of
from fuse_mounter.passthrough.tree import Settings, Tree

#: What a name was seen to be: its attributes, and its inode or, of a new one, a descriptor.
Seen = tuple[os.stat_result | None, Inode | int]

_DOTS = (FileNameT(b"."), FileNameT(b".."))
#: How many names a thread looks at: about what a small reply has room for.
_BATCH = 32
_GONE: Seen = (None, -1)
_UNSEEN: Seen = (None, -2)


@dataclass(slots=True)
class Listing:
    """An open directory. The names are read when a listing begins, so that an offset stays right
    while files come and go.
    """

    inode: Inode
    descriptor: int
    names: list[FileNameT] = field(default_factory=list)


class Listings(Tree):
    """Handlers."""

    def __init__(self, root: int, settings: Settings) -> None:
        super().__init__(root, settings)
        self._listings: dict[int, Listing] = {}

    async def opendir(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> FileHandleT:
        directory = self.inodes[inode]
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        descriptor = await self.storage.call(
            functools.partial(os.open, b".", flags, dir_fd=directory.descriptor)
        )
        self._listings[descriptor] = Listing(directory, descriptor)
        return FileHandleT(descriptor)

    async def releasedir(self, fh: FileHandleT) -> None:
        await self.storage.call(os.close, self._listings.pop(fh).descriptor)

    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        await self.storage.slow(os.fsync, fh)

    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        listing = self._listings[fh]
        await self.make_room()
        if start_id == 0:
            found = await self.storage.call(os.listdir, listing.descriptor)
            listing.names = [*_DOTS, *(FileNameT(os.fsencode(name)) for name in found)]
        position = await self._add_dots(listing, start_id, token)
        look = functools.partial(self._look, listing.inode.descriptor)
        while position is not None and position < len(listing.names):
            names = listing.names[position : position + _BATCH]
            seen = await self.storage.each(look, names)
            position = self._add(listing, position, names, seen, token)

    def _look(self, parent: int, name: FileNameT) -> Seen:
        try:
            return self.probe(parent, name)
        except FileNotFoundError:
            return _GONE
        except OSError:
            return _UNSEEN

    def _add(
        self,
        listing: Listing,
        position: int,
        names: Sequence[FileNameT],
        seen: Iterable[Seen],
        token: pyfuse3.ReaddirToken,
    ) -> int | None:
        """Add these names to the reply. Returns where to go on, None when the reply is full."""
        rest = iter(seen)
        for name, one in zip(names, rest, strict=False):
            if not self._add_one(listing, position, name, one, token):
                if isinstance(seen, list):
                    _drop(rest)
                return None
            position += 1
        return position

    def _add_one(
        self,
        listing: Listing,
        position: int,
        name: FileNameT,
        seen: Seen,
        token: pyfuse3.ReaddirToken,
    ) -> bool:
        """False: there is no room for it."""
        status, found = seen
        if status is None:
            # Removed since it was listed: passed over, as readdir(3) may.
            return seen is _GONE or self._add_by_name(listing, position, name, token)
        directory = listing.inode
        inode = self.probed(status, found, directory, name)
        if inode is None:
            return self._add_by_name(listing, position, name, token)
        shown = self.attributes(inode.number, status)
        added = pyfuse3.readdir_reply(token, name, shown, position + 1)
        if added:
            self.inodes.looked_up(inode, directory.number, name)
        elif not inode.lookups and (new := self.inodes.forget(inode.number, 0)) is not None:
            os.close(new)
        return added

    def _add_by_name(
        self, listing: Listing, position: int, name: FileNameT, token: pyfuse3.ReaddirToken
    ) -> bool:
        """Add what nobody can look at, such as a place where a dead file system is mounted, or what
        the kernel let go of while a thread looked.

        The kernel lists the name and takes no inode of this type; whoever looks gets the error.
        """
        unseen = pyfuse3.EntryAttributes()
        unseen.st_ino = self.inodes.number((-listing.inode.number, position))
        unseen.st_mode = ModeT(0)
        return pyfuse3.readdir_reply(token, name, unseen, position + 1)

    async def _add_dots(
        self, listing: Listing, position: int, token: pyfuse3.ReaddirToken
    ) -> int | None:
        """The kernel takes only the number of these, and does not count them as looked up."""
        for name in _DOTS[position:]:
            # What is above the source is nobody's business.
            below = b"." if listing.inode is self.inodes.root else name
            look = functools.partial(os.stat, below, dir_fd=listing.inode.descriptor)
            status = await self.storage.call(look)
            shown = self.attributes(self.inodes.number(key_of(status)), status)
            position += 1
            if not pyfuse3.readdir_reply(token, name, shown, position):
                return None
        return position


def _drop(rest: Iterable[Seen]) -> None:
    """Of names for which there was no room."""
    for status, found in rest:
        if status is not None and isinstance(found, int):
            os.close(found)
