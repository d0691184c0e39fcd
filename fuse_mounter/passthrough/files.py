# SPDX-License-Identifier: Apache-2.0
"""Handlers about open files. A handle is a descriptor of the file below."""

from __future__ import annotations

import errno
import os
import stat

import pyfuse3
from pyfuse3 import FileHandleT, FileNameT, FlagT, InodeT, ModeT

from fuse_mounter.passthrough.callers import Caller, as_caller, privileged_bits, take_away
from fuse_mounter.passthrough.inodes import Inode, path_of
from fuse_mounter.passthrough.tree import Handle, Tree, creation_mode

# Besides O_DIRECT, which wants aligned buffers, and Python has none, and O_APPEND: the kernel says
# the offset, and also writes pages of a mapped file here, which must not go to the end.
_NOT_BELOW = os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL


class Files(Tree):
    """Handlers."""

    async def open(
        self, inode: InodeT, flags: FlagT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:
        known = self.inodes[inode]
        below = self._below(flags) & ~_NOT_BELOW

        def work() -> tuple[int, os.stat_result]:
            handle = os.open(known.path, below)
            return handle, os.fstat(handle)

        handle, status = await self.storage.call(work)
        return self._opened(known, handle, status, flags, ctx)

    def _below(self, flags: int) -> int:
        """How a file is opened below. Writing back a part of a page needs the rest of it."""
        if self.enable_writeback_cache and flags & os.O_ACCMODE == os.O_WRONLY:
            flags = flags & ~os.O_ACCMODE | os.O_RDWR
        return flags & ~(os.O_DIRECT | os.O_APPEND) | os.O_CLOEXEC

    async def create(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        flags: FlagT,
        ctx: pyfuse3.RequestContext,
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        await self.make_room()
        parent = self.inodes[parent_inode]
        below = self._below(flags) | os.O_CREAT | os.O_EXCL

        def work() -> tuple[int, int, os.stat_result]:
            permissions = creation_mode(parent, stat.S_IMODE(mode), ctx)
            try:
                with as_caller(ctx):
                    handle = os.open(name, below, permissions, dir_fd=parent.descriptor)
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
                # It appeared below since the kernel looked. Whether the caller may open it is the
                # kernel's to check, which looks anew after this error.
                raise pyfuse3.FUSEError(errno.ESTALE) from None
            # Of what was opened, not of the name: it may mean another file by now.
            try:
                descriptor = os.open(path_of(handle), os.O_PATH | os.O_CLOEXEC)
                return handle, descriptor, os.fstat(descriptor)
            except OSError:
                os.close(handle)
                raise

        handle, descriptor, status = await self.storage.call(work)
        inode = self.inodes.add(descriptor, status, parent.number, name)
        self.inodes.looked_up(inode, parent.number, name)
        # What is new has lost nothing by being cut off.
        opened = self._opened(inode, handle, status, flags & ~os.O_TRUNC, ctx)
        return opened, self.attributes(inode.number, status)

    def _opened(
        self, inode: Inode, handle: int, status: os.stat_result, flags: int, caller: Caller
    ) -> pyfuse3.FileInfo:
        self.open_files[handle] = opened = Handle(inode)
        inode.handles += 1
        if flags & os.O_ACCMODE != os.O_RDONLY and caller.uid != 0:
            opened.writer = caller
            opened.strip = privileged_bits(status, caller)
        if opened.strip and flags & os.O_TRUNC:
            take_away(handle, opened.strip)
            opened.strip = 0
        # Pages the kernel has stay good as long as nobody changed the file below.
        content = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        unchanged, inode.content = inode.content == content, content
        return pyfuse3.FileInfo(fh=handle, keep_cache=unchanged)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        # A view of our buffer: pyfuse3 takes any, though its types say bytes.
        return await self.storage.read(fh, size, off)  # type: ignore[return-value]

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        opened = self.open_files[fh]
        if opened.strip:
            bits, opened.strip = opened.strip, 0
            await self.storage.call(take_away, fh, bits)
        done = await self.storage.call(os.pwrite, fh, buf, off)
        while done < len(buf):
            # The kernel writes pages back without looking at how much was taken: it needs the
            # error. A caller who waits for us is told how much there was room for.
            try:
                done += await self.storage.call(os.pwrite, fh, buf[done:], off + done)
            except OSError:
                if self.enable_writeback_cache:
                    raise
                break
        return done

    async def flush(self, fh: FileHandleT) -> None:
        if not self.storage.distant:
            # Closing a file of a local file system cannot fail: the kernel need not ask again.
            raise pyfuse3.FUSEError(errno.ENOSYS)
        # What close(2) of the caller shall say: a late error of the storage, such as a quota.
        await self.storage.call(lambda: os.close(os.dup(fh)))

    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        await self.storage.slow(os.fdatasync if datasync else os.fsync, fh)

    async def release(self, fh: FileHandleT) -> None:
        self.open_files.pop(fh).inode.handles -= 1
        await self.storage.close(fh)
