# SPDX-License-Identifier: Apache-2.0
"""Sends somebody into a folder of a mount: the client of `folder_process`. Knows no publication.

Started at the first errand, and again when it was killed.
"""

from __future__ import annotations

import json
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import trio

import agents
from fuse_mounter import folder_process
from fuse_mounter.errands import Errands
from fuse_mounter.folder_process import Answer, Request


class Folders:
    """One small process, and a child of it for each errand."""

    def __init__(self) -> None:
        # The working directory is what `-m` searches first: our own packages, and nobody else's.
        where = Path(agents.__file__).parent.parent
        self._errands = Errands([sys.executable, "-S", "-m", folder_process.__name__], where)

    async def ask(self, request: Request) -> tuple[Answer | None, int | None]:
        """The answer, and the copy if one was asked for and made, which the caller closes. None:
        the child ended without a word. Lasts until the mount answers, however long; raises OSError
        when nobody can be sent.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            ours.setblocking(False)
            with theirs:
                self._errands.send(json.dumps(asdict(request)).encode(), theirs.fileno())
            await trio.lowlevel.wait_readable(ours)
            return _read(ours)

    def close(self) -> None:
        """End the process; the next errand starts another."""
        self._errands.close()


def _read(answer: socket.socket) -> tuple[Answer | None, int | None]:
    data, copies, _, _ = socket.recv_fds(answer, folder_process.MAX_MESSAGE, 1)
    if not data:
        return None, None
    said: dict[str, Any] = json.loads(data)
    told = Answer(**{**said, "mended": tuple(said["mended"])})
    return told, copies[0] if copies else None
