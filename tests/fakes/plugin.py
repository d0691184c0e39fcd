# SPDX-License-Identifier: Apache-2.0
"""A small device plugin that does what a test tells it, right or wrong, on real sockets.

It knows the kubelet's protocol and nothing of ours: what it proves about the embedded kubelet does
not depend on the real plugin.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import grpc

from agents import unix_grpc
from agents._pb.deviceplugin import v1beta1_pb2 as pb
from agents._pb.deviceplugin import v1beta1_pb2_grpc

T = TypeVar("T")
Allocate = Callable[[Sequence[str]], pb.ContainerAllocateResponse | None]

HEALTHY = "Healthy"
UNHEALTHY = "Unhealthy"


class Failure(Exception):
    """Raised by a scripted answer: the call fails with INTERNAL and this text."""


def device(id_: str, health: str = HEALTHY, numa: Sequence[int] = ()) -> pb.Device:
    """One device; without NUMA nodes it has no topology at all, as on the wire."""
    if not numa:
        return pb.Device(ID=id_, health=health)
    nodes = [pb.NUMANode(ID=node) for node in numa]
    return pb.Device(ID=id_, health=health, topology=pb.TopologyInfo(nodes=nodes))


def devices(count: int, health: str = HEALTHY) -> list[pb.Device]:
    """`d0`, `d1`, …"""
    return [device(f"d{number}", health) for number in range(count)]


class FakePlugin(v1beta1_pb2_grpc.DevicePluginServicer):
    """Serves one resource. The scripted answers may be replaced at any time:

    `prefer(offered, included, size)`, `allocate(ids)` (None: a response without a container),
    `pre_start(ids)`; each may raise `Failure`, or wait on `released`, which `stop` sets. What was
    asked is in `preferred`, `allocated`, `pre_started`.
    """

    def __init__(
        self,
        directory: Path,
        resource: str = "nodeshare/test",
        *,
        listed: Sequence[pb.Device] = (),
        options: pb.DevicePluginOptions | None = None,
        name: str = "fake.sock",
        workers: int = 8,
    ) -> None:
        self.directory = directory
        self.resource = resource
        self.name = name
        self.options = options or pb.DevicePluginOptions()
        self.prefer: Callable[[Sequence[str], Sequence[str], int], Sequence[str]] = (
            lambda offered, included, size: sorted(offered)[:size]
        )
        self.allocate: Allocate = lambda ids: pb.ContainerAllocateResponse(
            envs={"IDS": ",".join(sorted(ids))}
        )
        self.pre_start: Callable[[Sequence[str]], object] = lambda ids: None
        self.answer_options: Callable[[], object] = lambda: None
        self.released = threading.Event()
        self.preferred: list[tuple[list[str], list[str], int]] = []
        self.allocated: list[list[str]] = []
        self.pre_started: list[list[str]] = []
        self.streams = 0
        self.streams_ended = 0
        self._changed = threading.Condition()
        self._listed = list(listed)
        self._version = 1
        self._ending = 0
        self._stopped = False
        self._executor = ThreadPoolExecutor(workers, "fake plugin")
        self._server = grpc.server(
            self._executor,
            options=[("grpc.max_receive_message_length", unix_grpc.LARGE_RECEIVE_BYTES)],
        )
        v1beta1_pb2_grpc.add_DevicePluginServicer_to_server(self, self._server)

    @property
    def socket(self) -> Path:
        return self.directory / self.name

    def start(self) -> FakePlugin:
        unix_grpc.listen(self._server, self.socket)
        self._server.start()
        return self

    def register(self, *, version: str = "v1beta1", resource: str | None = None) -> None:
        """Raises grpc.RpcError when the kubelet refuses."""
        register(
            self.directory,
            pb.RegisterRequest(
                version=version,
                endpoint=self.name,
                resource_name=self.resource if resource is None else resource,
                options=self.options,
            ),
        )

    def send(self, listed: Sequence[pb.Device]) -> None:
        """Send this list on every open stream."""
        with self._changed:
            self._listed = list(listed)
            self._version += 1
            self._changed.notify_all()

    def end_streams(self) -> None:
        """Close every open stream from this side, as if all were well."""
        with self._changed:
            self._ending = self.streams
            self._changed.notify_all()

    def stop(self) -> None:
        self.released.set()
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._server.stop(grace=None).wait(2)
        self._executor.shutdown(wait=False, cancel_futures=True)

    def crash(self) -> None:
        """End every connection at once, with calls left unanswered."""
        self._server.stop(grace=None)

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 5.0) -> bool:
        with self._changed:
            return self._changed.wait_for(condition, timeout_s)

    def GetDevicePluginOptions(
        self, request: pb.Empty, context: grpc.ServicerContext
    ) -> pb.DevicePluginOptions:
        self.answer_options()
        return self.options

    def ListAndWatch(
        self, request: pb.Empty, context: grpc.ServicerContext
    ) -> Iterator[pb.ListAndWatchResponse]:
        with self._changed:
            self.streams += 1
            number = self.streams
            self._changed.notify_all()
        ended = threading.Event()
        context.add_callback(lambda: self._wake(ended))
        sent = 0
        try:
            while (found := self._newer(number, sent, ended)) is not None:
                listed, sent = found
                yield pb.ListAndWatchResponse(devices=listed)
        finally:
            with self._changed:
                self.streams_ended += 1
                self._changed.notify_all()

    def GetPreferredAllocation(
        self, request: pb.PreferredAllocationRequest, context: grpc.ServicerContext
    ) -> pb.PreferredAllocationResponse:
        asked = request.container_requests[0]
        offered, included = list(asked.available_deviceIDs), list(asked.must_include_deviceIDs)
        self.preferred.append((offered, included, asked.allocation_size))
        ids = self._scripted(context, lambda: self.prefer(offered, included, asked.allocation_size))
        answer = pb.ContainerPreferredAllocationResponse(deviceIDs=ids)
        return pb.PreferredAllocationResponse(container_responses=[answer])

    def Allocate(
        self, request: pb.AllocateRequest, context: grpc.ServicerContext
    ) -> pb.AllocateResponse:
        ids = list(request.container_requests[0].devices_ids)
        self.allocated.append(ids)
        answer = self._scripted(context, lambda: self.allocate(ids))
        return pb.AllocateResponse(container_responses=[] if answer is None else [answer])

    def PreStartContainer(
        self, request: pb.PreStartContainerRequest, context: grpc.ServicerContext
    ) -> pb.PreStartContainerResponse:
        ids = list(request.devices_ids)
        self.pre_started.append(ids)
        self._scripted(context, lambda: self.pre_start(ids))
        return pb.PreStartContainerResponse()

    def _newer(
        self, number: int, sent: int, ended: threading.Event
    ) -> tuple[list[pb.Device], int] | None:
        """The next list for this stream; None when it is to end."""

        def over() -> bool:
            return self._stopped or ended.is_set() or self._ending >= number

        with self._changed:
            self._changed.wait_for(lambda: self._version > sent or over())
            return None if over() else (self._listed, self._version)

    def _wake(self, ended: threading.Event) -> None:
        ended.set()
        with self._changed:
            self._changed.notify_all()

    @staticmethod
    def _scripted(context: grpc.ServicerContext, answer: Callable[[], T]) -> T:
        try:
            return answer()
        except Failure as failure:
            context.abort(grpc.StatusCode.INTERNAL, str(failure))


def register(directory: Path, request: pb.RegisterRequest) -> None:
    """A registration and nothing else: is there a plugin at all behind it?"""
    with unix_grpc.channel(directory / "kubelet.sock") as channel:
        v1beta1_pb2_grpc.RegistrationStub(channel).Register(request, timeout=15)


class GarbageSocket:
    """A socket that answers every connection with bytes that are no HTTP/2."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        # Closing alone does not wake a blocked accept.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(2)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"\x00garbage\xff" * 100)
