# SPDX-License-Identifier: Apache-2.0
"""The inodes that the kernel knows: number to O_PATH descriptor, with the count of its look-ups.

A descriptor stays right when a directory on the way is renamed, follows no symlink, and pins the
inode, so that its number cannot be reused while the kernel knows it. Numbers are those of the file
system below; what lies on another device, or would clash, gets a hashed one: the same after every
restart, and different for different files. Only the event loop's thread changes the table.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pyfuse3 import ROOT_INODE, FUSEError, InodeT

from agents.hostfs import PROC

_HASHED = 1 << 63
_OPEN = str(PROC / "self/fd")

Key = tuple[int, int]


@dataclass(slots=True, eq=False)
class Inode:
    """`parent` and `name`: where it was last seen, for telling the kernel to let it go.

    `lookups` is 0 when the kernel has not been told of it yet, or has let go of it. `content` is
    what the last open saw of it (size and times), `handles` how many are open.
    `let_go`: since it was last looked up, the kernel was asked to forget it.
    """

    number: InodeT
    key: Key
    descriptor: int
    directory: bool
    parent: InodeT
    name: bytes
    lookups: int = 0
    handles: int = 0
    let_go: bool = False
    content: tuple[int, int, int] | None = None

    @property
    def path(self) -> str:
        """For calls that take no descriptor: exactly this inode, even when it is a symlink."""
        return path_of(self.descriptor)


def path_of(descriptor: int) -> str:
    """The file that is open there, whatever its name means by now."""
    return f"{_OPEN}/{descriptor}"


def key_of(status: os.stat_result) -> Key:
    return status.st_dev, status.st_ino


class Inodes:
    """The table. Owns the descriptors in it."""

    def __init__(self, root: int) -> None:
        status = os.fstat(root)
        self._root = Inode(ROOT_INODE, key_of(status), root, True, ROOT_INODE, b"", lookups=1)
        self._device = status.st_dev
        self._by_number: dict[int, Inode] = {ROOT_INODE: self._root}
        self._by_key: dict[Key, Inode] = {self._root.key: self._root}
        #: The inode of a key, None when it is not in the table. Any thread may ask.
        self.known: Callable[[Key], Inode | None] = self._by_key.get

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[Inode]:
        """Oldest first, as they are now."""
        return iter(tuple(self._by_number.values()))

    @property
    def root(self) -> Inode:
        return self._root

    def __getitem__(self, number: int) -> Inode:
        try:
            return self._by_number[number]
        except KeyError:
            raise FUSEError(errno.ESTALE) from None

    def number(self, key: Key) -> InodeT:
        """The number of this file, whether or not it is in the table."""
        if found := self._by_key.get(key):
            return found.number
        device, number = key
        if device != self._device or not ROOT_INODE < number < _HASHED:
            digest = hashlib.blake2b(f"{device}:{number}".encode(), digest_size=8).digest()
            number = int.from_bytes(digest, "big") | _HASHED
        while number in self._by_number:  # another file: key was not known
            number = (number + 1) | _HASHED
        return InodeT(number)

    def add(self, descriptor: int, status: os.stat_result, parent: InodeT, name: bytes) -> Inode:
        """Take over an O_PATH descriptor. One that was in the table already keeps its own."""
        key = key_of(status)
        if found := self._by_key.get(key):
            os.close(descriptor)
            return found
        directory = (status.st_mode & 0o170000) == 0o040000
        inode = Inode(self.number(key), key, descriptor, directory, parent, name)
        self._by_number[inode.number] = self._by_key[key] = inode
        return inode

    def looked_up(self, inode: Inode, parent: InodeT, name: bytes) -> None:
        """The kernel has been told of it once more."""
        inode.lookups += 1
        inode.let_go = False
        inode.parent, inode.name = parent, name

    def forget(self, number: int, count: int) -> int | None:
        """The kernel drops `count` of its references. With the last one the caller gets the
        descriptor, to be closed.
        """
        inode = self._by_number.get(number)
        if inode is None or inode is self._root:
            return None
        inode.lookups -= count
        if inode.lookups > 0:
            return None
        del self._by_number[number], self._by_key[inode.key]
        return inode.descriptor
