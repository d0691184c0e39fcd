# SPDX-License-Identifier: Apache-2.0
"""A small process that forks a child for each errand into a place that may hang for ever.

Started at the first errand, and again when it was killed. An errand is one datagram with the
descriptor on which its answer comes. Knows no errand.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from agents import command


class Errands:
    """`argv` gets the number of the socket's descriptor as its last argument; `directory` is where
    it begins (None: where we are).
    """

    def __init__(self, argv: Sequence[str], directory: Path | None = None) -> None:
        self._argv, self._directory = argv, directory
        self._running: tuple[command.Child, socket.socket] | None = None

    def send(self, errand: bytes, answer: int) -> None:
        """Raises OSError when nobody can be sent; never waits."""
        try:
            socket.send_fds(self._requests(), [errand], [answer])
        except ConnectionError:  # it was killed: once more, with a new one
            self.close()
            socket.send_fds(self._requests(), [errand], [answer])

    def close(self) -> None:
        """End the process, and none of its children; the next errand starts another."""
        if self._running is not None:
            child, requests = self._running
            self._running = None
            requests.close()
            command.end(child)

    def _requests(self) -> socket.socket:
        if self._running is None:
            self._running = self._start()
        return self._running[1]

    def _start(self) -> tuple[command.Child, socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            number = theirs.fileno()
            argv = [*self._argv, str(number)]
            try:
                child = command.start(argv, cwd=self._directory, pass_fds=[number], output=None)
            except OSError:
                ours.close()
                raise
        return child, ours
