# SPDX-License-Identifier: Apache-2.0
"""Handlers about names in directories: looking up, making, removing, renaming, listing.

The kernel has checked the caller's permission by the attributes it was given, and holds its own
locks on the directories involved.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyfuse3
from pyfuse3 import FileHandleT, FileNameT, FlagT, InodeT, ModeT

from fuse_mounter.passthrough import syscalls
from fuse_mounter.passthrough.inodes import Inode, key_of
from fuse_mounter.passthrough.tree import Tree, creation_mode

_RENAME_FLAGS = int(pyfuse3.RENAME_NOREPLACE) | int(pyfuse3.RENAME_EXCHANGE)


@dataclass(slots=True)
class Listing:
    """An open directory. The names are read when a listing begins, so that an offset stays right
    while files come and go.
    """

    inode: Inode
    descriptor: int
    names: list[bytes] = field(default_factory=list)


class Names(Tree):
    """Handlers."""

    def __init__(self, root: int, cache_timeout_s: float, most_inodes: int) -> None:
        super().__init__(root, cache_timeout_s, most_inodes)
        self._listings: dict[int, Listing] = {}

    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return await self.entry(self.inodes[parent_inode], name)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for number, count in inode_list:
            self.inodes.forget(number, count)

    async def readlink(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> FileNameT:
        # An empty path with the descriptor of the link itself: readlinkat(2).
        descriptor = self.inodes[inode].descriptor
        return FileNameT(await self.storage.call(lambda: os.readlink(b"", dir_fd=descriptor)))

    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        def work(parent: Inode) -> None:
            permissions = creation_mode(parent, stat.S_IMODE(mode), ctx.umask)
            os.mkdir(name, permissions, dir_fd=parent.descriptor)

        return await self.make(parent_inode, name, ctx, work)

    async def mknod(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        rdev: int,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        def work(parent: Inode) -> None:
            permissions = creation_mode(parent, mode, ctx.umask)
            os.mknod(name, permissions, rdev, dir_fd=parent.descriptor)

        return await self.make(parent_inode, name, ctx, work)

    async def symlink(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        target: FileNameT,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        def work(parent: Inode) -> None:
            os.symlink(target, name, dir_fd=parent.descriptor)

        return await self.make(parent_inode, name, ctx, work)

    async def link(
        self,
        inode: InodeT,
        new_parent_inode: InodeT,
        new_name: FileNameT,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        path = self.inodes[inode].path.encode()

        def work(parent: Inode) -> None:
            os.link(path, new_name, dst_dir_fd=parent.descriptor, follow_symlinks=True)

        return await self.make(new_parent_inode, new_name, ctx, work)

    async def unlink(
        self, parent_inode: InodeT, name: FileNameT, ctx: pyfuse3.RequestContext
    ) -> None:
        directory = self.inodes[parent_inode].descriptor
        await self.storage.call(lambda: os.unlink(name, dir_fd=directory))

    async def rmdir(
        self, parent_inode: InodeT, name: FileNameT, ctx: pyfuse3.RequestContext
    ) -> None:
        directory = self.inodes[parent_inode].descriptor
        await self.storage.call(lambda: os.rmdir(name, dir_fd=directory))

    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        if flags & ~_RENAME_FLAGS:
            raise pyfuse3.FUSEError(errno.EINVAL)
        old, new = self.inodes[parent_inode_old], self.inodes[parent_inode_new]

        def work() -> None:
            syscalls.rename(
                name_old,
                name_new,
                old_directory=old.descriptor,
                new_directory=new.descriptor,
                flags=flags,
            )

        await self.storage.call(work)
        await self._moved(new, name_new)
        if flags & pyfuse3.RENAME_EXCHANGE:
            await self._moved(old, name_old)

    async def _moved(self, directory: Inode, name: bytes) -> None:
        """What has this name now is known by it from here on."""
        with contextlib.suppress(OSError):
            status = await self.storage.call(
                lambda: os.stat(name, dir_fd=directory.descriptor, follow_symlinks=False)
            )
            if (inode := self.inodes.known(key_of(status))) is not None:
                inode.parent, inode.name = directory.number, name

    async def opendir(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> FileHandleT:
        directory = self.inodes[inode]
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        descriptor = await self.storage.call(lambda: os.open(directory.path, flags))
        self._listings[descriptor] = Listing(directory, descriptor)
        return FileHandleT(descriptor)

    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        listing = self._listings[fh]
        await self.make_room()
        if start_id == 0:
            names = await self.storage.call(lambda: os.listdir(listing.descriptor))
            listing.names = [b".", b"..", *map(os.fsencode, names)]
        for position in range(start_id, len(listing.names)):
            if not await self._list(listing, position, token):
                return

    async def _list(self, listing: Listing, position: int, token: pyfuse3.ReaddirToken) -> bool:
        """Add one name to the reply; False when it is full."""
        directory, name = listing.inode, listing.names[position]
        if name in (b".", b".."):
            # The kernel takes only the number of these, and does not count them as looked up.
            shown = self._dots(directory, name)
            return pyfuse3.readdir_reply(token, FileNameT(name), shown, position + 1)
        try:
            found = await self.look_up(directory, name)
        except FileNotFoundError:
            return True  # removed since it was listed: passed over, as readdir(3) may
        except OSError:
            return self._add_by_name(listing, position, token)
        shown = self.attributes(found.inode.number, found.status)
        added = pyfuse3.readdir_reply(token, FileNameT(name), shown, position + 1)
        if added:
            self.inodes.looked_up(found.inode, directory.number, name)
        elif not found.inode.lookups:
            self.inodes.forget(found.inode.number, 0)
        return added

    def _add_by_name(self, listing: Listing, position: int, token: pyfuse3.ReaddirToken) -> bool:
        """Add what nobody can look at, such as a place where a dead file system is mounted.

        The kernel lists the name and takes no inode of this type; whoever looks gets the error.
        """
        unseen = pyfuse3.EntryAttributes()
        unseen.st_ino = self.inodes.number((-listing.inode.number, position))
        unseen.st_mode = ModeT(0)
        name = FileNameT(listing.names[position])
        return pyfuse3.readdir_reply(token, name, unseen, position + 1)

    def _dots(self, directory: Inode, name: bytes) -> pyfuse3.EntryAttributes:
        if directory is self.inodes.root:
            name = b"."  # what is above the source is nobody's business
        status = os.stat(name, dir_fd=directory.descriptor)
        return self.attributes(self.inodes.number(key_of(status)), status)

    async def releasedir(self, fh: FileHandleT) -> None:
        os.close(self._listings.pop(fh).descriptor)

    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        await self.storage.slow(lambda: os.fsync(fh))
