# SPDX-License-Identifier: Apache-2.0
"""Handlers about open files. A handle is a descriptor of the file below."""

from __future__ import annotations

import errno
import os
import stat

import pyfuse3
from pyfuse3 import FileHandleT, FileNameT, FlagT, InodeT, ModeT

from fuse_mounter.passthrough.inodes import Inode
from fuse_mounter.passthrough.syscalls import as_caller
from fuse_mounter.passthrough.tree import Tree, creation_mode, privileged_bits

# O_DIRECT wants aligned buffers, which Python does not have. O_APPEND: the kernel says the offset,
# and would also write pages of a mapped file through this handle, which must not land at the end.
_NOT_BELOW = os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL | os.O_DIRECT | os.O_APPEND


class Files(Tree):
    """Handlers."""

    def __init__(self, root: int, cache_timeout_s: float, most_inodes: int) -> None:
        super().__init__(root, cache_timeout_s, most_inodes)
        self._open: dict[int, Inode] = {}
        #: Handles whose first write takes the set-id bits away.
        self._strip: set[int] = set()

    async def open(
        self, inode: InodeT, flags: FlagT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:
        known = self.inodes[inode]
        below = flags & ~_NOT_BELOW | os.O_CLOEXEC

        def work() -> int:
            if flags & os.O_TRUNC and ctx.uid != 0:
                drop_privileged_bits(known.path)
            return os.open(known.path, below)

        descriptor = await self.storage.call(work)
        return self._opened(known, descriptor, flags, ctx.uid)

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
        below = flags & ~(os.O_DIRECT | os.O_APPEND) | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

        def work() -> tuple[int, int]:
            permissions = creation_mode(parent, stat.S_IMODE(mode), ctx.umask)
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
            path = Inode(InodeT(0), (0, 0), handle, False, InodeT(0), b"").path
            return handle, os.open(path, os.O_PATH | os.O_CLOEXEC)

        handle, descriptor = await self.storage.call(work)
        status = os.fstat(descriptor)
        inode = self.inodes.add(descriptor, status, parent.number, name)
        self.inodes.looked_up(inode, parent.number, name)
        opened = self._opened(inode, handle, flags, ctx.uid)
        return opened, self.attributes(inode.number, status)

    def _opened(self, inode: Inode, handle: int, flags: int, uid: int) -> pyfuse3.FileInfo:
        status = os.fstat(handle)
        self._open[handle] = inode
        inode.handles += 1
        if flags & os.O_ACCMODE != os.O_RDONLY and uid != 0 and privileged_bits(status.st_mode):
            self._strip.add(handle)
        # Pages the kernel has stay good as long as nobody changed the file below.
        content = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        unchanged, inode.content = inode.content == content, content
        return pyfuse3.FileInfo(fh=FileHandleT(handle), keep_cache=unchanged)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        # A view of our buffer: pyfuse3 takes any, though its types say bytes.
        return await self.storage.read(fh, size, off)  # type: ignore[return-value]

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        if fh in self._strip:
            self._strip.discard(fh)
            await self.storage.call(lambda: drop_privileged_bits(fh))
        return await self.storage.call(lambda: os.pwrite(fh, buf, off))

    async def flush(self, fh: FileHandleT) -> None:
        # What close(2) of the caller shall say: a late error of the storage, such as a quota.
        await self.storage.call(lambda: os.close(os.dup(fh)))

    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        await self.storage.slow(lambda: os.fdatasync(fh) if datasync else os.fsync(fh))

    async def release(self, fh: FileHandleT) -> None:
        self._open.pop(fh).handles -= 1
        self._strip.discard(fh)
        await self.storage.call(lambda: os.close(fh))


def drop_privileged_bits(file: int | str) -> None:
    """Of a handle or an inode's path. We are root, so the kernel does not do it for us when a user
    writes.
    """
    mode = stat.S_IMODE(os.stat(file).st_mode)  # noqa: PTH116 -- may be a descriptor
    if bits := privileged_bits(mode):
        os.chmod(file, mode & ~bits)
