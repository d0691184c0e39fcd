# SPDX-License-Identifier: Apache-2.0
"""Messages with descriptors over unix sockets (SCM_RIGHTS of unix(7)). Knows no message.

The functions of that purpose in `socket` ignore their flags before Python 3.13. Standard library
only: the holder loads this file.
"""

from __future__ import annotations

import array
import socket
from collections.abc import Sequence


def send(
    connection: socket.socket, data: bytes, descriptors: Sequence[int] = (), flags: int = 0
) -> None:
    """Raises OSError."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    connection.sendmsg([data], rights if descriptors else [], flags)


def receive(
    connection: socket.socket, size: int, most: int, flags: int = 0
) -> tuple[bytes, list[int], int]:
    """Data of up to `size` bytes, up to `most` descriptors (close-on-exec; more are closed by the
    kernel), and the flags of the message. Raises OSError.
    """
    descriptors = array.array("i")
    data, ancillary, told, _ = connection.recvmsg(
        size, socket.CMSG_SPACE(most * descriptors.itemsize), flags | socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    return data, list(descriptors), told
