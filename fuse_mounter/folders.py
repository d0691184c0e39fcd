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
from agents import command
from fuse_mounter import folder_process
from fuse_mounter.folder_process import Answer, Request


class Folders:
    """One small process, and a child of it for each errand."""

    def __init__(self) -> None:
        self._asking: tuple[command.Child, socket.socket] | None = None

    async def ask(self, request: Request) -> tuple[Answer | None, int | None]:
        """The answer, and the copy if one was asked for and made, which the caller closes. None:
        the child ended without a word. Lasts until the mount answers, however long; raises OSError
        when nobody can be sent.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            ours.setblocking(False)
            with theirs:
                self._send(json.dumps(asdict(request)).encode(), theirs.fileno())
            await trio.lowlevel.wait_readable(ours)
            return _read(ours)

    def close(self) -> None:
        """End the process; the next errand starts another."""
        if self._asking is not None:
            child, requests = self._asking
            self._asking = None
            requests.close()
            command.end(child)

    def _send(self, data: bytes, answer: int) -> None:
        try:
            socket.send_fds(self._requests(), [data], [answer])
        except ConnectionError:  # it was killed: once more, with a new one
            self.close()
            socket.send_fds(self._requests(), [data], [answer])

    def _requests(self) -> socket.socket:
        if self._asking is None:
            self._asking = _start()
        return self._asking[1]


def _start() -> tuple[command.Child, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with theirs:
        # The working directory is what `-m` searches first: our own packages, and nobody else's.
        argv = [sys.executable, "-S", "-m", folder_process.__name__, str(theirs.fileno())]
        where = Path(agents.__file__).parent.parent
        try:
            child = command.start(argv, cwd=where, pass_fds=[theirs.fileno()], output=None)
        except OSError:
            ours.close()
            raise
    return child, ours


def _read(answer: socket.socket) -> tuple[Answer | None, int | None]:
    data, copies, _, _ = socket.recv_fds(answer, folder_process.MAX_MESSAGE, 1)
    if not data:
        return None, None
    said: dict[str, Any] = json.loads(data)
    told = Answer(**{**said, "mended": tuple(said["mended"])})
    return told, copies[0] if copies else None
