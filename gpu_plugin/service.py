# SPDX-License-Identifier: Apache-2.0
"""The answers of one device plugin, over the kubelet's protocol. Knows no socket and no NVML.

Translates between messages and our values; what is decided is in `placement` and `allocation`.
Every answer comes from the resource as last published: nothing here waits for a driver or the
kubelet. Errors become gRPC errors in one place, `RpcBoundary`; their text is what `kubectl describe
pod` shows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc

from agents._pb.deviceplugin import v1beta1_pb2 as pb
from agents._pb.deviceplugin.v1beta1_pb2_grpc import DevicePluginServicer
from agents.errors import AgentError
from agents.logs import get_logger, log_context
from agents.published import Published
from gpu_plugin import placement, units
from gpu_plugin.allocation import Answer, answer, share_of
from gpu_plugin.identity import Allocations
from gpu_plugin.metrics import Counters
from gpu_plugin.placement import Refused
from gpu_plugin.resources import Resource, ServedDevice

#: What the kubelet is told per device, and nothing else: uuid, units, healthy, NUMA node.
Wire = tuple[tuple[str, int, bool, int | None], ...]


def wire_form(resource: Resource) -> Wire:
    """Equal for two resources means: the kubelet would be sent the same list."""
    return tuple(
        (s.device.uuid, s.units, s.unhealthy is None, resource.numa_node(s))
        for s in resource.devices
    )


def device_list(wire: Wire) -> pb.ListAndWatchResponse:
    """The complete list, as the kubelet wants it."""
    devices: list[pb.Device] = []
    for uuid, count, healthy, node in wire:
        health = "Healthy" if healthy else "Unhealthy"
        topology = None if node is None else pb.TopologyInfo(nodes=[pb.NUMANode(ID=node)])
        devices += [
            pb.Device(ID=id_, health=health, topology=topology)
            for id_ in units.unit_ids(uuid, count)
        ]
    return pb.ListAndWatchResponse(devices=devices)


class Streams:
    """How many lists are being watched, and how many ended: read by the socket's owner.

    `recalled` is how often all of them were told to end.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.open = 0
        self.ended = 0
        self.recalled = 0

    def __enter__(self) -> int:
        with self._lock:
            self.open += 1
            return self.recalled

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.open -= 1
            self.ended += 1

    def recall(self) -> None:
        """Those that are open now shall end; their waits have to be woken."""
        with self._lock:
            self.recalled += 1


@dataclass(frozen=True, slots=True)
class DevicePlugin(DevicePluginServicer):
    """One resource. Called from the threads of a gRPC server, several at a time."""

    offered: Published[Resource]
    allocations: Allocations
    counters: Counters
    streams: Streams

    def GetDevicePluginOptions(
        self, request: pb.Empty, context: grpc.ServicerContext
    ) -> pb.DevicePluginOptions:
        return pb.DevicePluginOptions(get_preferred_allocation_available=True)

    def ListAndWatch(
        self, request: pb.Empty, context: grpc.ServicerContext
    ) -> Iterator[pb.ListAndWatchResponse]:
        """The list, and again whenever it differs from what this stream was sent last."""
        gone = threading.Event()

        def leave() -> None:
            gone.set()
            self.offered.wake()

        if not context.add_callback(leave):
            return
        with self.streams as recalled:
            sent: Wire | None = None

            def over() -> bool:
                return gone.is_set() or self.streams.recalled != recalled

            snapshot = self.offered.snapshot
            while True:
                wire = wire_form(snapshot.value)
                if wire != sent:
                    yield device_list(wire)
                    sent = wire
                newer = self.offered.wait_newer(snapshot.version, unless=over)
                if newer is None or over():
                    return
                snapshot = newer

    def GetPreferredAllocation(
        self, request: pb.PreferredAllocationRequest, context: grpc.ServicerContext
    ) -> pb.PreferredAllocationResponse:
        resource = self.offered.value
        return pb.PreferredAllocationResponse(
            container_responses=[
                pb.ContainerPreferredAllocationResponse(
                    deviceIDs=placement.choose(
                        resource,
                        asked.available_deviceIDs,
                        asked.must_include_deviceIDs,
                        asked.allocation_size,
                    )
                )
                for asked in request.container_requests
            ]
        )

    def Allocate(
        self, request: pb.AllocateRequest, context: grpc.ServicerContext
    ) -> pb.AllocateResponse:
        resource = self.offered.value
        # All are checked before the first directory is made: a refusal leaves nothing behind.
        given = [
            placement.check(resource, asked.devices_ids) for asked in request.container_requests
        ]
        return pb.AllocateResponse(
            container_responses=[_message(self._answer(resource, one)) for one in given]
        )

    def PreStartContainer(
        self, request: pb.PreStartContainerRequest, context: grpc.ServicerContext
    ) -> pb.PreStartContainerResponse:
        return pb.PreStartContainerResponse()

    def end_lists(self) -> None:
        """End every list that is being watched, in order: the kubelet notices at once."""
        self.streams.recall()
        self.offered.wake()

    def _answer(self, resource: Resource, given: dict[ServedDevice, list[int]]) -> Answer:
        share = share_of(resource, given)
        directory = self.allocations.make(share)
        self.counters.allocations.labels(resource.name).inc()
        # Several devices share their control nodes: each once, in order.
        nodes = dict.fromkeys(node for served in given for node in served.nodes)
        return answer(share, tuple(nodes), directory)


def _message(given: Answer) -> pb.ContainerAllocateResponse:
    return pb.ContainerAllocateResponse(
        envs=given.env,
        mounts=[
            pb.Mount(
                container_path=mount.container_path,
                host_path=str(mount.host_path),
                read_only=True,
            )
            for mount in given.mounts
        ],
        devices=[
            pb.DeviceSpec(
                container_path=node.path, host_path=node.path, permissions=node.permissions
            )
            for node in given.devices
        ],
    )


class RpcBoundary(grpc.ServerInterceptor):  # type: ignore[misc, unused-ignore] # untyped base
    """Around every call: log context (pool threads have none of ours), and errors to gRPC
    errors.
    """

    def __init__(self, resource: str, counters: Counters) -> None:
        self._resource, self._counters = resource, counters

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        call = handler_call_details.method.rpartition("/")[2]
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(call, handler.unary_unary),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        assert handler.unary_stream is not None, "the protocol has no other kinds"
        return grpc.unary_stream_rpc_method_handler(
            self._stream(call, handler.unary_stream),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _unary(
        self, call: str, inner: Callable[[Any, grpc.ServicerContext], Any]
    ) -> Callable[[Any, grpc.ServicerContext], Any]:
        def guarded(request: Any, context: grpc.ServicerContext) -> Any:
            with log_context(resource=self._resource, call=call):
                try:
                    return inner(request, context)
                except Exception as error:  # noqa: BLE001 -- the boundary: nothing passes it
                    self._abort(context, error)

        return guarded

    def _stream(
        self, call: str, inner: Callable[[Any, grpc.ServicerContext], Iterator[Any]]
    ) -> Callable[[Any, grpc.ServicerContext], Iterator[Any]]:
        def guarded(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with log_context(resource=self._resource, call=call):
                try:
                    yield from inner(request, context)
                except Exception as error:  # noqa: BLE001 -- the boundary: nothing passes it
                    self._abort(context, error)

        return guarded

    def _abort(self, context: grpc.ServicerContext, error: Exception) -> NoReturn:
        """End the call with the error's own words; log and count it, once."""
        log = get_logger()
        match error:
            case Refused():
                code, reason, text = grpc.StatusCode.FAILED_PRECONDITION, error.reason, str(error)
                log.info("admission rejected", reason=reason, error=text)
            case AgentError():
                code, reason, text = grpc.StatusCode.UNAVAILABLE, "state", str(error)
                log.error("admission rejected", reason=reason, error=text)
            case _:
                code, reason = grpc.StatusCode.INTERNAL, "internal"
                text = "internal error of nodeshare; its log has the details"
                log.error("call failed", exc_info=error)
        self._counters.rejections.labels(self._resource, reason).inc()
        context.abort(code, text)
