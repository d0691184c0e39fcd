# SPDX-License-Identifier: Apache-2.0
"""Who makes a request, and what a kernel would do for them that does not know that we are root in
their place: whose new files are, and which mode bits a write takes away.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import pyfuse3

from fuse_mounter.passthrough import syscalls


class Caller(Protocol):
    """Who makes a request. `pid` is 0 where theirs cannot be seen from here."""

    @property
    def uid(self) -> int: ...

    @property
    def gid(self) -> int: ...

    @property
    def pid(self) -> int: ...

    @property
    def umask(self) -> int: ...


@contextmanager
def as_caller(caller: Caller) -> Iterator[None]:
    """What this thread creates meanwhile is born with the caller's owner and group.

    `await` nothing inside: both are per thread.
    """
    before = syscalls.set_creator(caller.uid, caller.gid)
    try:
        yield
    finally:
        syscalls.set_creator(*before)


def in_group(caller: Caller, gid: int) -> bool:
    """Whether it is one of all groups of the caller. In doubt it is not: the request tells one of
    them, the kernel the others while the caller waits for us.
    """
    if caller.gid == gid:
        return True
    try:
        return gid in pyfuse3.get_sup_groups(caller.pid)
    except (OSError, RuntimeError, ValueError):
        return False


def privileged_bits(status: os.stat_result, caller: Caller) -> int:
    """The set-user-id and set-group-id bits that a write of theirs takes away, as
    `setattr_should_drop_suidgid` of the kernel has it.
    """
    mode = status.st_mode
    if not mode & (stat.S_ISUID | stat.S_ISGID) or caller.uid == 0:
        return 0
    bits = mode & stat.S_ISUID
    if mode & stat.S_ISGID and (mode & stat.S_IXGRP or not in_group(caller, status.st_gid)):
        bits |= stat.S_ISGID
    return bits


def take_away(file: int | str, bits: int) -> None:
    """Of a handle or an inode's path: mode bits."""
    mode = stat.S_IMODE(os.stat(file).st_mode)  # noqa: PTH116 -- may be a descriptor
    os.chmod(file, mode & ~bits)
