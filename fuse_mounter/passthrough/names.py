# SPDX-License-Identifier: Apache-2.0
"""Handlers about names in directories: looking up, making, removing, renaming.

The kernel has checked the caller's permission by the attributes it was given, and holds its own
locks on the directories involved.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence

import pyfuse3
from pyfuse3 import FileNameT, FlagT, InodeT, ModeT

from fuse_mounter.passthrough import syscalls
from fuse_mounter.passthrough.inodes import Inode, key_of
from fuse_mounter.passthrough.tree import Tree, creation_mode

_RENAME_FLAGS = int(pyfuse3.RENAME_NOREPLACE) | int(pyfuse3.RENAME_EXCHANGE)


class Names(Tree):
    """Handlers."""

    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return await self.entry(self.inodes[parent_inode], name)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for number, count in inode_list:
            descriptor = self.inodes.forget(number, count)
            if descriptor is not None:
                await self.storage.close(descriptor)

    async def readlink(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> FileNameT:
        # An empty path with the descriptor of the link itself: readlinkat(2).
        descriptor = self.inodes[inode].descriptor
        return FileNameT(await self.storage.call(lambda: os.readlink(b"", dir_fd=descriptor)))

    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        def work(parent: Inode) -> None:
            permissions = creation_mode(parent, stat.S_IMODE(mode), ctx)
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
            permissions = creation_mode(parent, mode, ctx)
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
