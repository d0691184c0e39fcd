# SPDX-License-Identifier: Apache-2.0
"""What all handlers of the file system share: inodes, storage, and how an inode is shown."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

import pyfuse3
import trio
from pyfuse3 import InodeT

from agents.fuse import Operations
from fuse_mounter.passthrough.callers import Caller, as_caller, in_group
from fuse_mounter.passthrough.inodes import Inode, Inodes
from fuse_mounter.passthrough.storage import Storage

_DEFAULT_ACL = "system.posix_acl_default"
_NO_ACL = frozenset({errno.ENODATA, errno.EOPNOTSUPP})
_SET_GROUP = stat.S_ISGID | stat.S_IXGRP
#: What a request that may bring new inodes waits while there are too many: less than letting go
#: takes, for that may need a lock of the kernel's that this very request holds.
_CROWDED_PAUSE_S = 0.005


@dataclass(frozen=True, slots=True)
class Settings:
    """`cache_timeout_s`: for how long the kernel may answer from what it was told; 0 asks every
    time. `most_inodes`: above this, those that nobody needs are let go. `writeback`: the kernel
    writes when it likes, and is asked by nobody about sizes and times of open files.
    """

    cache_timeout_s: float = 1.0
    most_inodes: int = 1 << 18
    writeback: bool = False


@dataclass(slots=True)
class Handle:
    """An open file. `writer`: who may write through it, when that is not root. `strip`: mode bits
    that the next write takes away.
    """

    inode: Inode
    writer: Caller | None = None
    strip: int = 0


class Tree(Operations):
    """`root` is an O_PATH descriptor of the source."""

    supports_dot_lookup = False
    enable_acl = True

    def __init__(self, root: int, settings: Settings) -> None:
        super().__init__()
        self.inodes = Inodes(root)
        self.storage = Storage()
        #: By descriptor of the file below.
        self.open_files: dict[int, Handle] = {}
        self.enable_writeback_cache = settings.writeback
        self._timeout_s = settings.cache_timeout_s
        self._most_inodes = settings.most_inodes
        #: Set when there are too many inodes; whoever lets some go makes a new one.
        self.too_many = trio.Event()

    @property
    def crowded(self) -> bool:
        return len(self.inodes) > self._most_inodes

    async def make_room(self) -> None:
        """Before new inodes: one caller who walks through everything must not use up the
        descriptors of all others.
        """
        if self.crowded:
            self.too_many.set()
            await trio.sleep(_CROWDED_PAUSE_S)

    def probe(self, parent: int, name: bytes) -> tuple[os.stat_result, Inode | int]:
        """A known inode costs one call; a new one is opened and looked at by its descriptor."""
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        inode = self.inodes.known((status.st_dev, status.st_ino))
        if inode is not None:
            return status, inode
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=parent)
        return os.fstat(descriptor), descriptor

    def probed(
        self, status: os.stat_result, found: Inode | int, parent: Inode, name: bytes
    ) -> Inode | None:
        """The inode in the table. None: the kernel let go of it while a thread looked."""
        if isinstance(found, int):
            return self.inodes.add(found, status, parent.number, name)
        return found if found.lookups else None

    async def entry(self, parent: Inode, name: bytes) -> pyfuse3.EntryAttributes:
        """Reply with the inode behind a name: counts as a look-up."""
        if self.crowded:
            await self.make_room()
        while True:
            status, found = await self.storage.call(self.probe, parent.descriptor, name)
            if (inode := self.probed(status, found, parent, name)) is not None:
                self.inodes.looked_up(inode, parent.number, name)
                return self.attributes(inode.number, status)

    async def make(
        self, parent: InodeT, name: bytes, caller: Caller, function: Callable[[Inode], None]
    ) -> pyfuse3.EntryAttributes:
        """Reply with what `function` makes under a name, born as the caller's."""
        directory = self.inodes[parent]

        def work() -> None:
            with as_caller(caller):
                function(directory)

        await self.storage.call(work)
        return await self.entry(directory, name)

    def attributes(self, number: InodeT, status: os.stat_result) -> pyfuse3.EntryAttributes:
        """In pyfuse3's form."""
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = number
        entry.st_mode = pyfuse3.ModeT(status.st_mode)
        entry.st_nlink = status.st_nlink
        entry.st_uid = status.st_uid
        entry.st_gid = status.st_gid
        entry.st_rdev = status.st_rdev
        entry.st_size = status.st_size
        entry.st_blksize = status.st_blksize
        entry.st_blocks = status.st_blocks
        entry.st_atime_ns = status.st_atime_ns
        entry.st_mtime_ns = status.st_mtime_ns
        entry.st_ctime_ns = status.st_ctime_ns
        entry.entry_timeout = entry.attr_timeout = self._timeout_s
        return entry


def creation_mode(parent: Inode, mode: int, caller: Caller) -> int:
    """What a new file's mode is to be: less the caller's umask, unless a default ACL takes its
    place; and nobody makes a program that runs as a group which is not theirs (the kernel in front
    sees to that itself since Linux 6.0).
    """
    if mode & _SET_GROUP == _SET_GROUP and caller.uid != 0:
        directory = os.fstat(parent.descriptor)
        if directory.st_mode & stat.S_ISGID and not in_group(caller, directory.st_gid):
            mode &= ~stat.S_ISGID
    try:
        os.getxattr(parent.path, _DEFAULT_ACL)
    except OSError as error:
        if error.errno not in _NO_ACL:
            raise
        return mode & ~caller.umask
    return mode
