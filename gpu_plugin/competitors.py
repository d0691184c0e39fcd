# SPDX-License-Identifier: Apache-2.0
"""Which other plugins serve sockets beside ours, and who they are. Knows no registration.

The kubelet tells nobody who took a name. But whoever did listens on a socket in its directory, and
the kernel tells who listens there (SO_PEERCRED of unix(7): the process that called listen).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROBE_S = 0.2
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that somebody listens on. `pid` None: not in our pid namespace; `program` None: not
    known.
    """

    socket: str
    made_at: float
    pid: int | None
    program: str | None

    def __str__(self) -> str:
        if self.pid is None:
            return f"{self.socket!r} (of a process that cannot be seen from here)"
        return f"{self.socket!r} (of {self.program or 'a process'!r}, pid {self.pid})"


def listeners(
    plugins: Path, proc: Path, passed_over: Callable[[str], bool]
) -> tuple[Listener, ...]:
    """Those in the kubelet's directory, newest first, without the names that are passed over.
    Short connections are made; nothing is sent. Blocks for a moment.
    """
    found = []
    for path in plugins.iterdir():
        if passed_over(path.name) or not path.is_socket():
            continue
        pid = listening_pid(path)
        if pid is None:
            continue
        with suppress(FileNotFoundError):  # its owner took it away in this moment
            made_at = path.lstat().st_mtime
            name = _program(proc, pid) if pid else None
            found.append(Listener(path.name, made_at, pid or None, name))
    return tuple(sorted(found, key=lambda one: one.made_at, reverse=True))


def listening_pid(path: Path) -> int | None:
    """0: listens, and is in another pid namespace. None: nobody listens; a socket file that was
    left behind refuses.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(str(path))
            packed = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except (TimeoutError, BlockingIOError):
            return 0  # a full queue of somebody who listens
        except OSError:
            return None
    pid: int = _CREDENTIALS.unpack(packed)[0]
    return pid


def _program(proc: Path, pid: int) -> str | None:
    try:
        return (proc / str(pid) / "comm").read_text().strip()
    except OSError:
        return None
