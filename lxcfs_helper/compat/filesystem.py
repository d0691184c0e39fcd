# SPDX-License-Identifier: Apache-2.0
"""The handlers. They never wait: every file is of the kernel, or rendered from such.

A file is answered without the kernel's page cache (`direct_io`): its pages would be shared by
everybody, and one container would be shown another's values. It is rendered when it is opened, and
again by each further read at offset 0, as the kernel's own files in /proc are; what is read between
these is one text.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Sequence

import pyfuse3
from pyfuse3 import FileHandleT, FileNameT, FlagT, InodeT, ModeT

from agents import fuse
from agents.errors import FsError
from lxcfs_helper.compat.answers import Answers
from lxcfs_helper.compat.callers import Home
from lxcfs_helper.compat.host_tree import CPU_DIRECTORY, Node
from lxcfs_helper.compat.triggers import Triggers

#: Names outside of the CPU directory are the same for everybody, for ever.
_ENTRY_TIMEOUT_S = 3600.0
#: Texts of readers that stopped in the middle; above this, the oldest are rendered again.
_MOST_HELD_BYTES = 32 << 20
#: Whoever reads first later than this after opening wants newer values.
_FRESH_S = 0.05


class _Opened:
    """One open file. `text` is what its reader is in the middle of; None: nothing."""

    __slots__ = ("fresh_until", "home", "path", "text")

    def __init__(self, path: str, home: Home | None) -> None:
        self.path, self.home = path, home
        self.text: bytes | None = None
        #: On the monotonic clock; until then the first read needs no other text.
        self.fresh_until = 0.0


class Root(fuse.Operations):
    """All handlers."""

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self._answers = answers
        self.triggers = Triggers()
        #: Reads that were answered with an error.
        self.failed = 0
        self._paths: dict[int, str] = {pyfuse3.ROOT_INODE: ""}
        #: By path and kind: the kernel gives up an inode whose kind has changed.
        self._inodes: dict[tuple[str, int], int] = {("", stat.S_IFDIR): pyfuse3.ROOT_INODE}
        self._opened: dict[int, _Opened] = {}
        self._number = 0
        #: Was opened by the last request.
        self._to_prepare = 0
        #: Was prepared last: many ask for the size of what they have just opened.
        self._prepared: _Opened | None = None
        #: Handles with a text, and how long it is; the oldest first.
        self._held: OrderedDict[int, int] = OrderedDict()
        self._held_bytes = 0

    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        parent = self._paths[parent_inode]
        path = f"{parent}/{os.fsdecode(name)}".lstrip("/")
        return self._attributes(path, self._answers.home(ctx.pid))

    async def getattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._attributes(self._paths[inode], self._answers.home(ctx.pid))

    async def readlink(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> FileNameT:
        return FileNameT(self._answers.link(self._paths[inode]))

    async def access(self, inode: InodeT, mode: ModeT, ctx: pyfuse3.RequestContext) -> bool:
        path, home = self._paths[inode], self._answers.home(ctx.pid)
        node = self._node(path, home)
        if mode & os.W_OK or (mode & os.X_OK and not node.directory):
            return False
        return node.directory or self._answers.readable(path, node, home, ctx.uid)

    async def open(
        self, inode: InodeT, flags: FlagT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:
        answers, path = self._answers, self._paths[inode]
        home = answers.home(ctx.pid)
        if flags & os.O_ACCMODE != os.O_RDONLY and answers.pressure(path, home) is None:
            raise FsError(errno.EACCES, "nothing here can be written")
        if not answers.readable(path, self._node(path, home), home, ctx.uid):
            raise FsError(errno.EACCES, "not readable for this user")
        answers.opens[path if path.startswith("proc/") else CPU_DIRECTORY] += 1
        self._number = number = self._number + 1
        self._opened[number] = _Opened(path, home)
        self._to_prepare = number
        return pyfuse3.FileInfo(fh=FileHandleT(number), direct_io=True)

    def prepare(self) -> None:
        """Render what was just opened, while its reader is being woken by our reply."""
        number, self._to_prepare = self._to_prepare, 0
        one = self._opened.get(number)
        if one is None:
            return
        try:
            self._render(number, one)
        except Exception:  # noqa: BLE001 -- the read that follows fails likewise, and can say so
            return
        one.fresh_until = time.monotonic() + _FRESH_S
        self._prepared = one

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        one = self._opened[fh]
        text = one.text
        if text is None or (off == 0 and time.monotonic() >= one.fresh_until):
            try:
                text = self._render(fh, one)
            except OSError:
                self.failed += 1
                raise
        one.fresh_until = 0.0
        return text if off == 0 and size >= len(text) else text[off : off + size]

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        one = self._opened[fh]
        file = self._answers.pressure(one.path, one.home)
        if file is None:
            raise FsError(errno.EACCES, "nothing here can be written")
        self.triggers.set(fh, file, buf)
        return len(buf)

    async def poll(
        self,
        inode: InodeT,
        fh: FileHandleT,
        poll_handle: pyfuse3.PollHandle | None,
        ctx: pyfuse3.RequestContext,
    ) -> int:
        return self.triggers.poll(fh, poll_handle)

    async def release(self, fh: FileHandleT) -> None:
        del self._opened[fh]
        self.triggers.drop(fh)
        self._held_bytes -= self._held.pop(fh, 0)

    async def opendir(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> FileHandleT:
        path, home = self._paths[inode], self._answers.home(ctx.pid)
        if not self._node(path, home).directory:
            raise FsError(errno.ENOTDIR, "no directory")
        self._number += 1
        self._opened[self._number] = _Opened(path, home)
        return FileHandleT(self._number)

    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        one = self._opened[fh]
        for position, name in enumerate(self._answers.names(one.path, one.home), start=1):
            if position <= start_id:
                continue
            path = f"{one.path}/{name}".lstrip("/")
            node = self._answers.node(path, one.home)
            if node is None:
                continue
            entry = self._entry(path, node, node.size)
            if not pyfuse3.readdir_reply(token, FileNameT(os.fsencode(name)), entry, position):
                return

    async def releasedir(self, fh: FileHandleT) -> None:
        del self._opened[fh]

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """Numbers are kept: there are no more than the host has files here."""

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        answer = pyfuse3.StatvfsData()
        answer.f_bsize = answer.f_frsize = 512
        answer.f_namemax = 255
        return answer

    def _node(self, path: str, home: Home | None) -> Node:
        node = self._answers.node(path, home)
        if node is None:
            raise FsError(errno.ENOENT, "no such file here")
        return node

    def _attributes(self, path: str, home: Home | None) -> pyfuse3.EntryAttributes:
        node = self._node(path, home)
        last = self._prepared
        if (
            last is not None
            and last.path == path
            and last.home is home
            and last.text is not None
            and time.monotonic() < last.fresh_until
        ):
            return self._entry(path, node, len(last.text))
        size = self._answers.size(path, node, home)
        return self._entry(path, node, size)

    def _entry(self, path: str, node: Node, size: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = self._inode(path, stat.S_IFMT(node.mode))
        entry.st_mode = ModeT(node.mode)
        entry.st_nlink = 2 if node.directory else 1
        entry.st_size = size
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = time.time_ns()
        # Sizes are each caller's own, and so are the names below the CPU directory.
        entry.attr_timeout = 0
        entry.entry_timeout = 0 if path.startswith(CPU_DIRECTORY + "/") else _ENTRY_TIMEOUT_S
        return entry

    def _inode(self, path: str, kind: int) -> InodeT:
        number = self._inodes.get((path, kind))
        if number is None:
            number = self._inodes[path, kind] = len(self._inodes) + 1
            self._paths[number] = path
        return InodeT(number)

    def _render(self, fh: int, one: _Opened) -> bytes:
        one.text = text = self._answers.text(one.path, one.home)
        self._held_bytes += len(text) - self._held.pop(fh, 0)
        self._held[fh] = len(text)
        while self._held_bytes > _MOST_HELD_BYTES and len(self._held) > 1:
            oldest, length = self._held.popitem(last=False)
            self._opened[oldest].text = None
            self._held_bytes -= length
        return text


def _refused(name: str) -> None:
    """Whoever wants to change something hears that he may not."""

    async def refuse(self: Root, *arguments: object) -> None:
        raise FsError(errno.EACCES, "nothing here can be changed")

    refuse.__name__ = name
    setattr(Root, name, fuse.guarded(refuse))


for _name in (
    "create",
    "mknod",
    "mkdir",
    "unlink",
    "rmdir",
    "symlink",
    "link",
    "rename",
    "setattr",
    "setxattr",
    "removexattr",
):
    _refused(_name)
