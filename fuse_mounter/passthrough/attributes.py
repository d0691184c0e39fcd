# SPDX-License-Identifier: Apache-2.0
"""Handlers about attributes: stat, chmod, chown, times, size, extended attributes, statfs."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

import pyfuse3
from pyfuse3 import FileHandleT, InodeT, XAttrNameT

from fuse_mounter.passthrough import syscalls
from fuse_mounter.passthrough.callers import Caller, in_group, privileged_bits, take_away
from fuse_mounter.passthrough.inodes import Inode
from fuse_mounter.passthrough.tree import Tree

_ACCESS_ACL = b"system.posix_acl_access"
_ACLS = frozenset({_ACCESS_ACL, b"system.posix_acl_default"})


class Attributes(Tree):
    """Handlers."""

    async def getattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        known = self.inodes[inode]
        status = await self.storage.call(os.fstat, known.descriptor)
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
                _truncate(known, fh, attr.st_size, ctx)
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

        # Cutting a large file off takes long.
        run = self.storage.slow if fields.update_size else self.storage.call
        status = await run(work)
        if fields.update_mode and known.handles:
            self._guard_writers(known, status)
        return self.attributes(known.number, status)

    def _guard_writers(self, inode: Inode, status: os.stat_result) -> None:
        """Who has it open for writing takes away bits that it was given since, too. Not with
        writeback: the next write may be one that was made before.
        """
        for opened in () if self.enable_writeback_cache else self.open_files.values():
            if opened.inode is inode and opened.writer is not None:
                opened.strip = privileged_bits(status, opened.writer)

    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: pyfuse3.RequestContext) -> bytes:
        return await self.storage.call(os.getxattr, self.inodes[inode].path, name)

    async def setxattr(
        self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        _refuse_unchecked(name, ctx)
        known = self.inodes[inode]

        def work() -> None:
            if name == _ACCESS_ACL:
                _forfeit_group(known, ctx)
            os.setxattr(known.path, name, value)

        await self.storage.call(work)

    async def listxattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> Sequence[XAttrNameT]:
        names = await self.storage.call(os.listxattr, self.inodes[inode].path)
        # Only root may read those that are called so; nobody else is told of them (xattr(7)).
        shown = [name for name in names if ctx.uid == 0 or not name.startswith("trusted.")]
        return [XAttrNameT(os.fsencode(name)) for name in shown]

    async def removexattr(
        self, inode: InodeT, name: XAttrNameT, ctx: pyfuse3.RequestContext
    ) -> None:
        _refuse_unchecked(name, ctx)
        await self.storage.call(os.removexattr, self.inodes[inode].path, name)

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        root = self.inodes.root.descriptor
        status = await self.storage.call(os.fstatvfs, root)
        shown = pyfuse3.StatvfsData()
        shown.f_bsize, shown.f_frsize = status.f_bsize, status.f_frsize
        shown.f_blocks, shown.f_bfree = status.f_blocks, status.f_bfree
        shown.f_bavail, shown.f_namemax = status.f_bavail, status.f_namemax
        shown.f_files, shown.f_ffree = status.f_files, status.f_ffree
        shown.f_favail = status.f_favail
        return shown


def _truncate(inode: Inode, handle: int | None, size: int, caller: Caller) -> None:
    """Through the caller's handle where there is one: it may be open for writing to a file whose
    mode no longer allows it.
    """
    descriptor = handle
    if descriptor is None:
        descriptor = os.open(inode.path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
        if bits := privileged_bits(os.fstat(descriptor), caller):
            take_away(descriptor, bits)
    finally:
        if handle is None:
            os.close(descriptor)


def _refuse_unchecked(name: bytes, caller: Caller) -> None:
    """The kernel in front leaves it to a file system who may change attributes called `system.`,
    and below we are root. It checks ACLs itself.
    """
    if name.startswith(b"system.") and name not in _ACLS and caller.uid != 0:
        raise pyfuse3.FUSEError(errno.EOPNOTSUPP)


def _forfeit_group(inode: Inode, caller: Caller) -> None:
    """Who is not in the group of a file takes its set-group-id bit away by an ACL (chmod(2))."""
    status = os.fstat(inode.descriptor)
    if status.st_mode & stat.S_ISGID and caller.uid != 0 and not in_group(caller, status.st_gid):
        take_away(inode.path, stat.S_ISGID)
