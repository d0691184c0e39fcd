# SPDX-License-Identifier: Apache-2.0
"""Handlers about attributes: stat, chmod, chown, times, size, extended attributes, statfs."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

import pyfuse3
from pyfuse3 import FileHandleT, InodeT, XAttrNameT

from fuse_mounter.passthrough import syscalls
from fuse_mounter.passthrough.files import drop_privileged_bits
from fuse_mounter.passthrough.inodes import Inode
from fuse_mounter.passthrough.tree import Tree


class Attributes(Tree):
    """Handlers."""

    async def getattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        known = self.inodes[inode]
        status = await self.storage.call(lambda: os.fstat(known.descriptor))
        return self.attributes(known.number, status)

    async def setattr(
        self,
        inode: InodeT,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: FileHandleT | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        known = self.inodes[inode]

        def work() -> os.stat_result:
            if fields.update_size:
                _truncate(known, fh, attr.st_size, ctx.uid)
            if fields.update_uid or fields.update_gid:
                uid = attr.st_uid if fields.update_uid else -1
                gid = attr.st_gid if fields.update_gid else -1
                os.chown(known.path, uid, gid)
            if fields.update_mode:
                os.chmod(known.path, stat.S_IMODE(attr.st_mode))
            if fields.update_atime or fields.update_mtime:
                atime = attr.st_atime_ns if fields.update_atime else None
                mtime = attr.st_mtime_ns if fields.update_mtime else None
                syscalls.set_times(known.path, atime, mtime)
            return os.fstat(known.descriptor)

        return self.attributes(known.number, await self.storage.call(work))

    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: pyfuse3.RequestContext) -> bytes:
        path = self.inodes[inode].path
        return await self.storage.call(lambda: os.getxattr(path, name))

    async def setxattr(
        self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        path = self.inodes[inode].path
        await self.storage.call(lambda: os.setxattr(path, name, value))

    async def listxattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> Sequence[XAttrNameT]:
        path = self.inodes[inode].path
        names = await self.storage.call(lambda: os.listxattr(path))
        # Only root may read those that are called so; nobody else is told of them (xattr(7)).
        shown = [name for name in names if ctx.uid == 0 or not name.startswith("trusted.")]
        return [XAttrNameT(os.fsencode(name)) for name in shown]

    async def removexattr(
        self, inode: InodeT, name: XAttrNameT, ctx: pyfuse3.RequestContext
    ) -> None:
        path = self.inodes[inode].path
        await self.storage.call(lambda: os.removexattr(path, name))

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        root = self.inodes.root.descriptor
        status = await self.storage.call(lambda: os.fstatvfs(root))
        shown = pyfuse3.StatvfsData()
        shown.f_bsize, shown.f_frsize = status.f_bsize, status.f_frsize
        shown.f_blocks, shown.f_bfree = status.f_blocks, status.f_bfree
        shown.f_bavail, shown.f_namemax = status.f_bavail, status.f_namemax
        shown.f_files, shown.f_ffree = status.f_files, status.f_ffree
        shown.f_favail = status.f_favail
        return shown


def _truncate(inode: Inode, handle: int | None, size: int, uid: int) -> None:
    """Through the caller's handle where there is one: it may be open for writing to a file whose
    mode no longer allows it.
    """
    descriptor = handle
    if descriptor is None:
        descriptor = os.open(inode.path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
        if uid != 0:
            drop_privileged_bits(descriptor)
    finally:
        if handle is None:
            os.close(descriptor)
