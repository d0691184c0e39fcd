# SPDX-License-Identifier: Apache-2.0
"""The socket of one device plugin and the gRPC server on it. Knows no kubelet and no answers.

The classic threaded gRPC server runs beside trio (grpc.aio needs asyncio).
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc

from agents import unix_grpc
from agents._pb.deviceplugin.v1beta1_pb2_grpc import (
    DevicePluginServicer,
    add_DevicePluginServicer_to_server,
)
from agents.errors import Unavailable
from gpu_plugin.allocation import file_name

#: A watched list takes a thread for its life (`MOST_STREAMS`); the others are for calls. They are
#: made when they are needed.
_THREADS = 16
_STOP_GRACE_S = 0.5
_STOP_LIMIT_S = 2.0
#: A connection that does not greet within this time is closed: gRPC's own limit is two minutes.
_GREETING_LIMIT_MS = 5000
SOCKET_PREFIX = "nodeshare-"
#: Behind the path while a socket is being made: a dot and four characters.
_NEW_BYTES = 5


@dataclass(frozen=True, slots=True)
class SocketIdentity:
    """A socket made anew has another one. Inodes are reused, so the time is there when it was made:
    that of the last modification, which neither chmod nor a relabelling changes.
    """

    device: int
    inode: int
    made_ns: int


def identify_socket(path: Path) -> SocketIdentity | None:
    """None when there is no socket at this path."""
    try:
        found = path.lstat()
    except OSError:
        return None
    if not stat.S_ISSOCK(found.st_mode):
        return None
    return SocketIdentity(found.st_dev, found.st_ino, found.st_mtime_ns)


def socket_path(plugins: Path, resource: str) -> Path:
    """`nodeshare-<name>.sock`; a hash instead of the name where a socket path would be too long."""
    path = plugins / f"{SOCKET_PREFIX}{file_name(resource)}.sock"
    if len(str(path).encode()) <= unix_grpc.SOCKET_PATH_BYTES - _NEW_BYTES:
        return path
    return plugins / f"{SOCKET_PREFIX}{hashlib.sha256(resource.encode()).hexdigest()[:12]}.sock"


class Endpoint:
    """A server that listens at `path` from now on; whoever listened there is not asked.

    Raises Unavailable, or OSError for a directory that cannot be written.
    """

    def __init__(
        self, path: Path, plugin: DevicePluginServicer, interceptors: list[grpc.ServerInterceptor]
    ) -> None:
        if os.path.lexists(path) and not path.is_socket():
            raise Unavailable(f"{str(path)!r} is not a socket", remedy="move that file away")
        self._path = path
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="plugin")
        self._server = grpc.server(
            self._threads,
            interceptors=interceptors,
            options=[
                ("grpc.max_receive_message_length", unix_grpc.LARGE_RECEIVE_BYTES),
                ("grpc.server_handshake_timeout_ms", _GREETING_LIMIT_MS),
            ],
        )
        add_DevicePluginServicer_to_server(plugin, self._server)
        # gRPC takes away the path that it bound when it stops, whoever listens there by then. It
        # binds another one, so that no copy of this agent takes the socket of the next along.
        new = path.with_name(f"{path.name}.{secrets.token_hex(2)}")
        unix_grpc.listen(self._server, new)
        self._server.start()
        try:
            new.rename(path)
        except OSError:
            self._server.stop(None)
            raise
        self._socket = identify_socket(path)

    @property
    def in_place(self) -> bool:
        """Whether our socket is still the one at our path."""
        return self._socket is not None and identify_socket(self._path) == self._socket

    def close(self) -> None:
        """New calls are refused at once; one that is being answered has half a second. Call `wait`
        when all streams were told to end.
        """
        if self.in_place:
            self._path.unlink(missing_ok=True)
        self._stopped = self._server.stop(_STOP_GRACE_S)

    def wait(self) -> None:
        """Until it has ended, two seconds at most. Blocks; after `close`."""
        self._stopped.wait(_STOP_LIMIT_S)
        self._threads.shutdown(wait=False)
