# SPDX-License-Identifier: Apache-2.0
"""The least a device plugin needs of a kubelet, on real sockets: Registration with its call-back,
and a list that is watched. The whole of it is in `agents.standin.kubelet`.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from agents import unix_grpc
from agents._pb.deviceplugin import v1beta1_pb2 as pb
from agents._pb.deviceplugin import v1beta1_pb2_grpc as pb_grpc

#: No test waits longer for anything.
LIMIT_S = 10.0


class Watch:
    """One registration: the plugin's stub, and its list being read until the end."""

    def __init__(self, socket: Path) -> None:
        self.channel = unix_grpc.channel(socket, receive_bytes=unix_grpc.DEFAULT_RECEIVE_BYTES)
        self.plugin = pb_grpc.DevicePluginStub(self.channel)
        self.options = self.plugin.GetDevicePluginOptions(pb.Empty(), timeout=LIMIT_S)
        self.lists: queue.Queue[dict[str, str]] = queue.Queue()
        self.ended = threading.Event()
        self._stream = self.plugin.ListAndWatch(pb.Empty())
        self._thread = threading.Thread(target=self._read)

    def start(self) -> None:
        self._thread.start()

    def next_list(self, timeout_s: float = LIMIT_S) -> dict[str, str]:
        """Health by id; raises queue.Empty when none comes."""
        return self.lists.get(timeout=timeout_s)

    def close(self) -> None:
        self._stream.cancel()
        self._thread.join(LIMIT_S)
        self.channel.close()

    def _read(self) -> None:
        try:
            for answer in self._stream:
                self.lists.put({device.ID: device.health for device in answer.devices})
        except grpc.RpcError:
            pass  # how a list ends when the plugin dies, or we leave
        self.ended.set()


class Registrar(pb_grpc.RegistrationServicer):
    """`kubelet.sock` in a directory. `start` clears the sockets there first, as a kubelet does."""

    def __init__(self, plugins: Path) -> None:
        self.plugins = plugins
        self.registered: queue.Queue[Watch] = queue.Queue()
        self.requests: list[pb.RegisterRequest] = []
        self.authorities: list[str] = []
        self.refuse: str | None = None
        self.hang: threading.Event | None = None
        self._watches: list[Watch] = []
        self._server: grpc.Server | None = None

    def start(self, *, clear: bool = True) -> None:
        self.plugins.mkdir(parents=True, exist_ok=True)
        for path in self.plugins.iterdir():
            if clear and path.is_socket():
                path.unlink()
        self._server = grpc.server(ThreadPoolExecutor(4))
        pb_grpc.add_RegistrationServicer_to_server(self, self._server)
        unix_grpc.listen(self._server, self.plugins / "kubelet.sock")
        self._server.start()

    def stop(self) -> None:
        """The process ends: all its connections with it. Its socket file stays."""
        for watch in self._watches:
            watch.close()
        self._watches.clear()
        if self._server is not None:
            self._server.stop(0).wait(LIMIT_S)
            self._server = None

    def next(self, timeout_s: float = LIMIT_S) -> Watch:
        """The next registration; raises queue.Empty when none comes."""
        return self.registered.get(timeout=timeout_s)

    def Register(self, request: pb.RegisterRequest, context: grpc.ServicerContext) -> pb.Empty:
        if self.hang is not None:
            self.hang.wait(LIMIT_S)
        if self.refuse is not None:
            context.abort(grpc.StatusCode.INTERNAL, self.refuse)
        self.requests.append(request)
        # As the kubelet does: the call-back comes inside the call, before its answer.
        try:
            watch = Watch(self.plugins / request.endpoint)
        except grpc.RpcError as error:  # the plugin has just ended
            context.abort(grpc.StatusCode.UNKNOWN, str(error))
        watch.start()
        self._watches.append(watch)
        self.registered.put(watch)
        return pb.Empty()
