# SPDX-License-Identifier: Apache-2.0
"""gRPC over unix sockets, with the options that kubelet and runtimes need. Knows no service.

- Authority `localhost`: without it grpcio sends the percent-encoded path, which Go servers refuse.
- A subchannel pool of its own: else two channels to one path share a back-off, and a socket that
  was made anew seconds ago still looks dead.
- Short reconnect pauses: the default grows to two minutes, a kubelet restart takes seconds.
"""

from __future__ import annotations

import os
import urllib.parse
from pathlib import Path

import grpc
import grpc.experimental

from agents.errors import ConfigError, Unavailable
from agents.hostfs import SOCKET_PATH_BYTES as SOCKET_PATH_BYTES

#: gRPC's default for a received message; the kubelet never raises it.
DEFAULT_RECEIVE_BYTES = 4 * 1024 * 1024
#: What our own clients and servers accept: 640,000 device ids would fit.
LARGE_RECEIVE_BYTES = 64 * 1024 * 1024


def target(socket: Path) -> str:
    """The gRPC name of a socket. Raises ConfigError when the path is too long for any socket."""
    path = str(socket)
    if len(path.encode()) > SOCKET_PATH_BYTES:
        raise ConfigError(
            f"the socket path {path!r} is longer than {SOCKET_PATH_BYTES} bytes",
            remedy="use a shorter directory",
        )
    return "unix:" + urllib.parse.quote(path)


def channel(
    socket: Path, *, receive_bytes: int = LARGE_RECEIVE_BYTES, streams: bool = False
) -> grpc.Channel:
    """A channel that connects at the first call, and again after the socket was made anew.

    `streams`: for calls whose answers may be long in coming, each read by a thread of its own,
    which then does not look ten times a second whether there is one.
    """
    return grpc.insecure_channel(
        target(socket),
        options=[
            *([(grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1)] * streams),
            ("grpc.default_authority", "localhost"),
            ("grpc.max_receive_message_length", receive_bytes),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 1000),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ],
    )


def listen(server: grpc.Server, socket: Path) -> None:
    """Let the server listen on the socket; a stale one there is removed first (grpc refuses it).

    Raises Unavailable when the socket cannot be made.
    """
    name = target(socket)
    if os.path.lexists(socket):
        if not socket.is_socket():
            raise Unavailable(f"{str(socket)!r} is not a socket", remedy="move that file away")
        socket.unlink(missing_ok=True)
    try:
        server.add_insecure_port(name)
    except RuntimeError as error:
        raise Unavailable(
            f"cannot listen on the socket {str(socket)!r}: {error}",
            remedy="look whether the directory exists and may be written",
        ) from error


def unavailable(what: str, socket: Path, error: grpc.RpcError) -> Unavailable:
    """The failed call as an error that a person can act on."""
    code, details = status(error)
    # Of a connection that fails gRPC tells the whole way there; the reason comes last.
    said = details.rpartition(" error: ")[2]
    text = f"{what} at {str(socket)!r} answered {code.name}: {said}"
    return Unavailable(text, remedy=_REMEDIES.get(code))


def status(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    """Code and details of a failed call.

    A client's RpcError is always a Call as well, but not in its type.
    """
    if isinstance(error, grpc.Call):
        return error.code(), error.details() or ""
    return grpc.StatusCode.UNKNOWN, str(error)


_REMEDIES = {
    grpc.StatusCode.UNAVAILABLE: "look whether it runs, whether the socket is mounted, and "
    "whether the configuration (node) names the right one",
    grpc.StatusCode.UNIMPLEMENTED: "look whether the socket is the right one",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "ask less often",
    grpc.StatusCode.PERMISSION_DENIED: "look whether this process may use the socket",
}
