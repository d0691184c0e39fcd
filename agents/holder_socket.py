# SPDX-License-Identifier: Apache-2.0
"""How the holder is found, and is the only one: sockets at paths, and a lock beside them. Knows
nobody who connects.

Standard library only, and nothing of this package that is not: the holder loads this file.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from contextlib import suppress


def lock(path: str) -> int | None:
    """The lock beside the socket, for our whole life; None when another holder has it."""
    while True:
        descriptor = os.open(path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        # Whoever clears up removes the file: a lock on a removed file excludes nobody.
        if is_at(path + ".lock", descriptor):
            return descriptor
        os.close(descriptor)


def is_at(path: str, descriptor: int) -> bool:
    """Whether the file that is open by this descriptor still has this name."""
    try:
        return os.stat(path).st_ino == os.fstat(descriptor).st_ino  # noqa: PTH116 -- no pathlib here
    except FileNotFoundError:
        return False


def bound(path: str, kind: socket.SocketKind, backlog: int) -> socket.socket:
    """A unix socket at which only our user may connect. The holder has the lock, so a file at the
    path is stale. Raises OSError.
    """
    # Whoever finds it there is accepted: between bind and listen he would be refused.
    new = f"{path}~"
    with suppress(FileNotFoundError):
        os.unlink(new)  # noqa: PTH108 -- no pathlib here
    listener = socket.socket(socket.AF_UNIX, kind)
    umask = os.umask(0o177)
    try:
        listener.bind(new)
    finally:
        os.umask(umask)
    listener.listen(backlog)
    listener.setblocking(False)
    try:
        os.replace(new, path)  # noqa: PTH105 -- no pathlib here
    except OSError:
        os.unlink(new)  # noqa: PTH108 -- no pathlib here
        raise
    return listener


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Pid and user of the other end (SO_PEERCRED of unix(7)); 0 is a pid of another namespace."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, user, _ = struct.unpack("=iII", credentials)
    return pid, user
