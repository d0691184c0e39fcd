# SPDX-License-Identifier: Apache-2.0
"""What the double serves: `whoami`, the identity of whoever opens it, and a few files beside it."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable
from typing import NoReturn

import pyfuse3
import trio

from tests.fakes.eosxd.identity import Asker, Identities

_FILES = {2: b"whoami", 3: b"who"}
_WHO = b"the server\n"
#: Of an identity; programs that are told 0 do not even read.
_LONGEST = 256


class Filesystem(pyfuse3.Operations):
    """Answers nothing while `hanging` says so."""

    def __init__(self, identities: Identities, hanging: Callable[[], bool]) -> None:
        super().__init__()
        self._identities, self._hanging = identities, hanging
        self._open: dict[int, bytes] = {}
        self.operations = 0

    async def _answer(self) -> None:
        self.operations += 1
        while self._hanging():
            await trio.sleep(0.05)

    def _attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = pyfuse3.InodeT(inode)
        directory = inode == pyfuse3.ROOT_INODE
        entry.st_mode = pyfuse3.ModeT(stat.S_IFDIR | 0o755 if directory else stat.S_IFREG | 0o444)
        entry.st_nlink = 1
        entry.st_size = len(_WHO) if inode == 3 else _LONGEST
        entry.entry_timeout = entry.attr_timeout = 1
        return entry

    def _missing(self, number: int = errno.ENOENT) -> NoReturn:
        raise pyfuse3.FUSEError(number)

    async def getattr(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        await self._answer()
        return self._attributes(inode)

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        await self._answer()
        inode = next((inode for inode, known in _FILES.items() if known == name), None)
        return self._attributes(self._missing() if inode is None else inode)

    async def open(
        self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:
        await self._answer()
        text = _WHO if inode == 3 else f"{self._whose(ctx)}\n".encode()
        handle = max(self._open, default=0) + 1
        self._open[handle] = text
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(handle), direct_io=True)

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        await self._answer()
        return self._open[fh][off : off + size]

    async def release(self, fh: pyfuse3.FileHandleT) -> None:
        del self._open[fh]

    async def opendir(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileHandleT:
        await self._answer()
        return pyfuse3.FileHandleT(0)

    async def readdir(
        self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken
    ) -> None:
        for number, (inode, name) in enumerate(_FILES.items(), 1):
            if number > start_id:
                entry = self._attributes(inode)
                pyfuse3.readdir_reply(token, pyfuse3.FileNameT(name), entry, number)

    async def getxattr(
        self, inode: pyfuse3.InodeT, name: pyfuse3.XAttrNameT, ctx: pyfuse3.RequestContext
    ) -> bytes:
        await self._answer()
        if name != b"eos.identity":
            self._missing(errno.ENODATA)
        return self._whose(ctx).encode()

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        await self._answer()
        told = pyfuse3.StatvfsData()
        told.f_bsize = told.f_frsize = 4096
        told.f_blocks, told.f_bfree, told.f_bavail = 1000, 500, 500
        told.f_files = told.f_ffree = told.f_favail = 1000
        return told

    def _whose(self, ctx: pyfuse3.RequestContext) -> str:
        return self._identities.of(Asker(ctx.pid, ctx.uid))
