# SPDX-License-Identifier: Apache-2.0
"""A gRPC server on one unix socket, with a bounded end. Knows no service."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from agents import unix_grpc

_STOP_S = 2.0


class SocketServer:
    """Listens when it is made (Unavailable when it cannot), answers from `start` on.

    `add` adds the service; `name` is that of its threads, of which there are `workers`.
    """

    def __init__(
        self, socket: Path, name: str, workers: int, add: Callable[[grpc.Server], None]
    ) -> None:
        self._executor = ThreadPoolExecutor(workers, name)
        self._server = grpc.server(self._executor)
        add(self._server)
        unix_grpc.listen(self._server, socket)

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        """Ends every call that is out."""
        self._server.stop(grace=None).wait(_STOP_S)
        self._executor.shutdown(wait=False, cancel_futures=True)
