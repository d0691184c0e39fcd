# SPDX-License-Identifier: Apache-2.0
"""The life of one device plugin: serve, register, notice a kubelet restart, stop. Knows no answers.

Level-triggered: at every poke (a change in the kubelet's directory, or the poll interval)
`_reconcile` compares what is there with what should be, and does the next step:

- our socket is not there: serve on a new one (the kubelet deletes all sockets when it starts);
- kubelet.sock is another than the one we registered with: register;
- our list is not being watched though we are registered: the kubelet dropped us without a word
  (another plugin took the name, or the list was too long): register again, ever more slowly.

Serving comes first: the kubelet dials back inside Register. The classic threaded gRPC server runs
beside trio (grpc.aio needs asyncio); blocking calls go through worker threads.
"""

from __future__ import annotations

import hashlib
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import trio

from agents import unix_grpc
from agents._pb.deviceplugin import v1beta1_pb2 as pb
from agents._pb.deviceplugin.v1beta1_pb2_grpc import (
    RegistrationStub,
    add_DevicePluginServicer_to_server,
)
from agents.errors import AgentError
from agents.logs import get_logger
from gpu_plugin.allocation import file_name
from gpu_plugin.service import DevicePlugin, RpcBoundary

API_VERSION = "v1beta1"
#: A watched list takes a thread for its life; the others are for calls, and lists just ending.
_THREADS = 8
#: The kubelet dials back for at most 10 s inside Register.
_REGISTER_LIMIT_S = 15.0
_STOP_GRACE_S = 0.5
_STOP_LIMIT_S = 2.0
#: After Register the kubelet asks for the list at once; later than this, something is wrong.
_LIST_LIMIT_S = 5.0
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True, slots=True)
class SocketIdentity:
    """A socket made anew has another one; the change time is there because inodes are reused."""

    device: int
    inode: int
    changed_ns: int


def identify_socket(path: Path) -> SocketIdentity | None:
    """None when there is no socket at this path."""
    try:
        found = path.lstat()
    except OSError:
        return None
    if not stat.S_ISSOCK(found.st_mode):
        return None
    return SocketIdentity(found.st_dev, found.st_ino, found.st_ctime_ns)


def socket_path(plugins: Path, resource: str) -> Path:
    """`nodeshare-<name>.sock`; a hash instead of the name where a socket path would be too long."""
    path = plugins / f"nodeshare-{file_name(resource)}.sock"
    if len(str(path).encode()) <= unix_grpc.SOCKET_PATH_BYTES:
        return path
    return plugins / f"nodeshare-{hashlib.sha256(resource.encode()).hexdigest()[:12]}.sock"


def register(kubelet: Path, endpoint: str, resource: str) -> None:
    """Tell the kubelet of us. Blocks (bounded); raises Unavailable."""
    request = pb.RegisterRequest(
        version=API_VERSION,
        endpoint=endpoint,
        resource_name=resource,
        options=pb.DevicePluginOptions(get_preferred_allocation_available=True),
    )
    with unix_grpc.channel(kubelet) as channel:
        try:
            RegistrationStub(channel).Register(request, timeout=_REGISTER_LIMIT_S)
        except grpc.RpcError as error:
            raise unix_grpc.unavailable("the kubelet's registration", kubelet, error) from error


@dataclass(frozen=True, slots=True)
class _Running:
    """A server, its threads, and the socket it made."""

    server: grpc.Server
    threads: ThreadPoolExecutor
    socket: SocketIdentity | None


class PluginServer:
    """Keeps one plugin registered. `problem` says why it is not (None: it is)."""

    def __init__(self, resource: str, plugins: Path, plugin: DevicePlugin) -> None:
        self._resource, self._plugin = resource, plugin
        self._streams, self._counters = plugin.streams, plugin.counters
        self._kubelet = plugins / "kubelet.sock"
        self.socket = socket_path(plugins, resource)
        self._server: _Running | None = None
        self._registered = False
        self._attempted: SocketIdentity | None = None
        self._registered_at = 0.0
        self._ended_before = 0
        self._pause_s = _FIRST_PAUSE_S
        self._next_attempt = 0.0
        self._poked = trio.Event()
        self.problem: str | None = "not registered yet"
        self._log = get_logger(resource=resource)

    def poke(self) -> None:
        """Something may have changed; from the event loop. Costs two stats while all is well."""
        if not self._is_well():
            self._poked.set()

    async def run(self) -> None:
        """Never returns; cancelled, it ends all streams at once, so that the kubelet notices."""
        try:
            while True:
                await self._reconcile()
                await self._poked.wait()
                self._poked = trio.Event()
        finally:
            with trio.CancelScope(shield=True):
                await self._stop_serving()

    async def _reconcile(self) -> None:
        kubelet = identify_socket(self._kubelet)
        if kubelet is None:
            self._registered, self._attempted = False, None
            self._blame(f"no kubelet: {str(self._kubelet)!r} is not there; start the kubelet")
            return
        try:
            if await self._serve() and self._must_register(kubelet):
                await self._register(kubelet)
        except (AgentError, OSError) as error:  # a directory that cannot be written, for one
            self._pause()
            self._blame(str(error))

    def _is_well(self) -> bool:
        return (
            self.problem is None
            and self._streams.open > 0
            and self._server is not None
            and identify_socket(self.socket) == self._server.socket
            and identify_socket(self._kubelet) == self._attempted
        )

    async def _serve(self) -> bool:
        """Whether we listen on our socket (now). False: another process does, and is left alone."""
        found = identify_socket(self.socket)
        if self._server is not None:
            if found == self._server.socket:
                return True
            if found is not None and _answers(self.socket):
                self._registered = False
                self._blame(f"another process serves {str(self.socket)!r}; waiting for its end")
                return False
        await self._stop_serving()
        self._start_serving()
        return True

    def _start_serving(self) -> None:
        threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="plugin")
        server = grpc.server(
            threads,
            interceptors=[RpcBoundary(self._resource, self._counters)],
            options=[("grpc.max_receive_message_length", unix_grpc.LARGE_RECEIVE_BYTES)],
        )
        add_DevicePluginServicer_to_server(self._plugin, server)
        unix_grpc.listen(server, self.socket)
        server.start()
        self._server = _Running(server, threads, identify_socket(self.socket))
        self._registered, self._attempted = False, None

    async def _stop_serving(self) -> None:
        running, self._server = self._server, None
        if running is None:
            return
        # Half a second for a call that is being answered; a list that is watched ends at once.
        stopped = running.server.stop(_STOP_GRACE_S)
        self._plugin.end_lists()
        await trio.to_thread.run_sync(stopped.wait, _STOP_LIMIT_S)
        running.threads.shutdown(wait=False)

    def _must_register(self, kubelet: SocketIdentity) -> bool:
        now = trio.current_time()
        if kubelet != self._attempted:
            self._pause_s = _FIRST_PAUSE_S
            return True
        if self._registered and self._is_watched(now):
            return False
        if self._registered and self.problem is None:
            self._pause()
            self._blame(
                "the kubelet stopped watching the list; look in its log for this resource: another "
                "plugin may have registered the name"
            )
        return now >= self._next_attempt

    def _is_watched(self, now: float) -> bool:
        """Also while the kubelet has not had the time to ask for the list."""
        if self._streams.open:
            return True
        asked_soon = now - self._registered_at < _LIST_LIMIT_S
        return asked_soon and self._streams.ended == self._ended_before

    async def _register(self, kubelet: SocketIdentity) -> None:
        self._attempted, self._ended_before = kubelet, self._streams.ended
        await trio.to_thread.run_sync(
            register, self._kubelet, self.socket.name, self._resource, abandon_on_cancel=True
        )
        self._registered, self._registered_at = True, trio.current_time()
        self.problem = None
        self._counters.registrations.labels(self._resource).inc()
        self._log.info("registered", path=str(self.socket))

    def _pause(self) -> None:
        """Before the next attempt; longer each time, unless all was well for a minute."""
        now = trio.current_time()
        if self._registered and now - self._registered_at > _LONGEST_PAUSE_S:
            self._pause_s = _FIRST_PAUSE_S
        self._next_attempt = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def _blame(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            self._log.warning("not registered", error=problem)


def _answers(path: Path) -> bool:
    """Whether any process listens there; a socket file that was left behind refuses."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True  # a full queue of somebody who listens
        except OSError:
            return False
    return True
