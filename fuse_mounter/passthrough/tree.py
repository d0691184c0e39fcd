# SPDX-License-Identifier: Apache-2.0
"""What all handlers of the file system share: inodes, storage, and how an inode is shown."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass

import pyfuse3
import trio
from pyfuse3 import InodeT

from agents.fuse import Operations
from fuse_mounter.passthrough.inodes import Inode, Inodes, key_of
from fuse_mounter.passthrough.storage import Storage
from fuse_mounter.passthrough.syscalls import Caller, as_caller

_DEFAULT_ACL = "system.posix_acl_default"
_NO_ACL = frozenset({errno.ENODATA, errno.EOPNOTSUPP})
_EXECUTABLE_GROUP = 0o2010
#: What a request that may bring new inodes waits while there are too many: less than letting go
#: takes, for that may need a lock of the kernel's that this very request holds.
_CROWDED_PAUSE_S = 0.005


@dataclass(frozen=True, slots=True)
class Found:
    """A name that was looked up: an inode, and what it is like now."""

    inode: Inode
    status: os.stat_result


class Tree(Operations):
    """`root` is an O_PATH descriptor of the source. `cache_timeout_s`: for how long the kernel may
    answer from what it was told; 0 asks every time. `most_inodes`: above this, those that nobody
    needs are let go.
    """

    supports_dot_lookup = False
    enable_acl = True

    def __init__(self, root: int, cache_timeout_s: float, most_inodes: int) -> None:
        super().__init__()
        self.inodes = Inodes(root)
        self.storage = Storage()
        self._timeout_s = cache_timeout_s
        self._most_inodes = most_inodes
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

    async def look_up(self, parent: Inode, name: bytes) -> Found:
        """The inode behind a name. The caller counts it as looked up, or forgets it."""
        while True:
            status, descriptor = await self.storage.call(lambda: self._probe(parent, name))
            if descriptor is not None:
                return Found(self.inodes.add(descriptor, status, parent.number, name), status)
            if (inode := self.inodes.known(key_of(status))) is not None:
                return Found(inode, status)
            # The kernel let go of it while a thread looked: once more.

    def _probe(self, parent: Inode, name: bytes) -> tuple[os.stat_result, int | None]:
        """A known inode costs one call; a new one is opened and looked at by its descriptor."""
        status = os.stat(name, dir_fd=parent.descriptor, follow_symlinks=False)
        if self.inodes.known(key_of(status)) is not None:
            return status, None
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=parent.descriptor)
        return os.fstat(descriptor), descriptor

    async def entry(self, parent: Inode, name: bytes) -> pyfuse3.EntryAttributes:
        """Reply with the inode behind a name: counts as a look-up."""
        await self.make_room()
        found = await self.look_up(parent, name)
        self.inodes.looked_up(found.inode, parent.number, name)
        return self.attributes(found.inode.number, found.status)

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


def creation_mode(parent: Inode, mode: int, umask: int) -> int:
    """What the caller's umask leaves of a mode: all of it where a default ACL takes its place."""
    try:
        os.getxattr(parent.path, _DEFAULT_ACL)
    except OSError as error:
        if error.errno not in _NO_ACL:
            raise
        return mode & ~umask
    return mode


def privileged_bits(mode: int) -> int:
    """The set-user-id and set-group-id bits that a write by somebody must take away."""
    group = 0o2000 if mode & _EXECUTABLE_GROUP == _EXECUTABLE_GROUP else 0
    return mode & 0o4000 | group
