# SPDX-License-Identifier: Apache-2.0
"""HTTP over TCP and unix sockets, for an agent: bound at the start, served by threads of their own,
because they must answer when the event loop does not.

What can be reached by others is bounded: connections, and the time of each. What must not be is on
a unix socket and on loopback only, unless a bearer token is configured. Knows routes as functions,
and nothing of what they answer.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import io
import ipaddress
import os
import selectors
import socket
import socketserver
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from agents.errors import ConfigError
from agents.hostfs import SOCKET_PATH_BYTES
from agents.logs import get_logger

#: For the whole request, and for the whole answer.
_TIMEOUT_S = 5.0
_MAX_CONNECTIONS = 32
#: How long a connection that makes room takes to end its thread, at most.
_ROOM_S = 1.0
_STOP_S = 2.0
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
_LISTEN_REMEDIES = {
    errno.EADDRINUSE: "choose another port there, or stop what listens on it (ss -ltnp shows it)",
    errno.EADDRNOTAVAIL: "choose an address of this node as the address there (ip addr shows them)",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a route returns."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    code: HTTPStatus = HTTPStatus.OK
    #: What a browser may do with it.
    policy: str = "default-src 'none'"
    #: How the body is compressed; None: it is not.
    encoding: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What a route may know of the request."""

    accept: str
    accept_encoding: str = ""


Route = Callable[[Request], Answer]


class _Until(io.RawIOBase):
    """What a client sends, up to one moment: a socket's timeout begins anew with every byte."""

    def __init__(self, connection: socket.socket, limit_s: float) -> None:
        self._connection = connection
        self._end = time.monotonic() + limit_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left_s = self._end - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._connection.settimeout(left_s)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "nodeshare"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_Until(self.connection, _TIMEOUT_S))

    def do_GET(self) -> None:
        self.server.has_read(self.connection)
        self.connection.settimeout(_TIMEOUT_S)
        refusal = self.server.refuse(self.headers.get("Host", ""), self._token())
        self._send(refusal or self._answer(self.path.partition("?")[0]))

    do_HEAD = do_GET

    def _answer(self, path: str) -> Answer:
        route = self.server.routes.get(path)
        if route is None:
            known = ", ".join(sorted(self.server.routes))
            return Answer(f"here are: {known}\n".encode(), code=HTTPStatus.NOT_FOUND)
        get = self.headers.get
        try:
            return route(Request(get("Accept", ""), get("Accept-Encoding", "")))
        except Exception:  # noqa: BLE001 -- the caller gets an answer, and the bug is in the log
            get_logger().exception("answer failed", path=path)
            text = b"a bug in nodeshare; the agent's log says more\n"
            return Answer(text, code=HTTPStatus.INTERNAL_SERVER_ERROR)

    def _token(self) -> str:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.code)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        if answer.encoding is not None:
            self.send_header("Content-Encoding", answer.encoding)
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", answer.policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:
        """A scrape every few seconds is not an event."""


class _Server(ThreadingHTTPServer):
    """A bounded number of connections. One more ends the oldest that has not asked anything yet:
    whoever holds connections open keeps no probe and no scrape out. Where all are being answered,
    it is closed at once, instead of waiting."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_port = False
    request_queue_size = 2 * _MAX_CONNECTIONS
    #: A connection that was there when the selector looked may be gone: nobody waits for the next.
    timeout = 0

    def __init__(
        self,
        address: object,
        family: socket.AddressFamily,
        routes: Mapping[str, Route],
        *,
        token: str | None = None,
        local_only: bool = False,
    ) -> None:
        self.address_family = family
        self.routes = routes
        self._token = token
        self._local_only = local_only
        self._free = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        self._unread: dict[socket.socket, None] = {}
        self._changing = threading.Lock()
        super().__init__(address, _Handler)  # type: ignore[arg-type]  # also AF_UNIX

    def server_bind(self) -> None:
        if self.address_family is not socket.AF_UNIX:
            # Not HTTPServer's: it asks the name service who we are, and waits for the answer.
            socketserver.TCPServer.server_bind(self)
            self.server_name, self.server_port = "localhost", self.socket.getsockname()[1]
            return
        # 0600 from the first moment: created under a umask, not changed afterwards.
        mask = os.umask(0o177)
        try:
            self.socket.bind(self.server_address)
        finally:
            os.umask(mask)
        self.server_name, self.server_port = "localhost", 0

    def refuse(self, host: str, token: str) -> Answer | None:
        """Why this request is not answered; None: it is."""
        if self._token is not None:
            if hmac.compare_digest(token.encode(), self._token.encode()):
                return None
            return Answer(b"bearer token missing or wrong\n", code=HTTPStatus.UNAUTHORIZED)
        # A page in a browser on this machine could be led here under another name (DNS rebinding).
        if self._local_only and _host_name(host) not in _LOOPBACK_NAMES:
            return Answer(b"ask for localhost\n", code=HTTPStatus.FORBIDDEN)
        return None

    def has_read(self, connection: socket.socket) -> None:
        """The request is complete: this connection is not ended any more to make room."""
        with self._changing:
            self._unread.pop(connection, None)

    def process_request(self, request: Any, client_address: object) -> None:
        if not self._free.acquire(blocking=False) and not self._make_room():
            self.shutdown_request(request)
            return
        with self._changing:
            self._unread[request] = None
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._forget(request)
            raise

    def process_request_thread(self, request: Any, client_address: object) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up in the middle is its own affair."""

    def _forget(self, request: socket.socket) -> None:
        self.has_read(request)
        self._free.release()

    def _make_room(self) -> bool:
        with self._changing:
            oldest = next(iter(self._unread), None)
            if oldest is None:
                return False
            del self._unread[oldest]
            with contextlib.suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)
        return self._free.acquire(timeout=_ROOM_S)


def _host_name(host: str) -> str:
    name, separator, port = host.rpartition(":")
    return name if separator and port.isdigit() else host


@dataclass(frozen=True, slots=True)
class Listener:
    """A bound server that is not served yet; `where` is its URL or path."""

    server: HTTPServer
    where: str
    port: int


def bind_tcp(
    address: str,
    port: int,
    routes: Mapping[str, Route],
    *,
    key: str,
    token: str | None = None,
    local_only: bool = False,
) -> Listener:
    """Raises ConfigError that names the configuration `key` when the port cannot be had."""
    family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    try:
        server = _Server((address, port), family, routes, token=token, local_only=local_only)
    except OSError as error:
        raise ConfigError(
            f"{key}: cannot listen on {address} port {port}: {error.strerror}",
            remedy=_LISTEN_REMEDIES.get(error.errno or 0),
        ) from error
    shown = f"[{address}]" if family is socket.AF_INET6 else address
    return Listener(server, f"http://{shown}:{server.server_port}", server.server_port)


def bind_unix(path: Path, routes: Mapping[str, Route]) -> Listener:
    """Replace a stale socket; raise ConfigError when another agent answers there, the path is no
    socket, or there can be none.
    """
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise ConfigError(
            f"node.run_dir: the path {str(path)!r} is longer than {SOCKET_PATH_BYTES} bytes",
            remedy="use a shorter directory",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        _remove_stale(path)
        return Listener(_Server(str(path), socket.AF_UNIX, routes), str(path), 0)
    except OSError as error:
        raise ConfigError(
            f"node.run_dir: cannot make the socket {str(path)!r}: {error.strerror}",
            remedy="name a directory that can be made and written, or free space there",
        ) from error


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(
            f"node.run_dir: {str(path)!r} is not a socket", remedy="move that file away"
        )
    if _answers(path):
        raise ConfigError(
            f"node.run_dir: another agent serves {str(path)!r}",
            remedy="stop it, or give this one a run_dir of its own",
        )
    path.unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            pass  # somebody has it, and is too busy to take one more connection
        return True


@contextlib.contextmanager
def serving(*listeners: Listener) -> Iterator[None]:
    """Serve until the end of the block; unix sockets are removed.

    One thread waits for all of them, without a period: an idle agent must not wake up for this.
    """
    stopping, stop = socket.socketpair()
    thread = threading.Thread(
        target=_accept, args=(listeners, stopping), name="listeners", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stop.close()
        thread.join(_STOP_S)
        stopping.close()
        for listener in listeners:
            listener.server.server_close()
            if listener.port == 0:
                Path(listener.where).unlink(missing_ok=True)


def _accept(listeners: Sequence[Listener], stopping: socket.socket) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(stopping, selectors.EVENT_READ)
        for listener in listeners:
            selector.register(listener.server, selectors.EVENT_READ, listener.server)
        while True:
            for key, _ in selector.select():
                if key.data is None:
                    return
                key.data.handle_request()
