# SPDX-License-Identifier: Apache-2.0
"""The answers of one device plugin, over the kubelet's protocol. Knows no socket and no NVML.

Translates between messages and our values; what is decided is in `placement` and `allocation`.
Every answer comes from the resource as last published: nothing here waits for a driver or the
kubelet. Errors become gRPC errors in one place, `rpc_boundary`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field

import grpc

from agents._pb.deviceplugin import v1beta1_pb2 as pb
from agents._pb.deviceplugin.v1beta1_pb2_grpc import DevicePluginServicer
from agents.logs import get_logger
from agents.published import Published
from gpu_plugin import budget, placement, units
from gpu_plugin.allocation import Share, share_of
from gpu_plugin.container_config import ContainerConfig
from gpu_plugin.container_edits import ContainerEdits, edits
from gpu_plugin.identity import Allocations
from gpu_plugin.ledger import Claim, Ledger
from gpu_plugin.metrics import Counters
from gpu_plugin.resources import Resource, ServedDevice

#: A kubelet has one, two for a moment. Each takes a thread, and Allocate must find one.
MOST_STREAMS = 8
#: What the kubelet is told per device, and nothing else: uuid, units, which are healthy (all, none,
#: or all but these), NUMA node.
Wire = tuple[tuple[str, int, bool | frozenset[int], int | None], ...]


def wire_form(resource: Resource) -> Wire:
    """Equal for two resources means: the kubelet would be sent the same list."""
    return tuple(
        (
            s.device.uuid,
            s.units,
            (s.withheld or True) if s.unhealthy is None else False,
            resource.numa_node(s),
        )
        for s in resource.devices
    )


def device_list(wire: Wire) -> pb.ListAndWatchResponse:
    """The complete list, as the kubelet wants it."""
    listed = pb.ListAndWatchResponse()
    add = listed.devices.add  # in place: a list of 60,000 messages first would take thrice as long
    for uuid, count, healthy, node in wire:
        topology = None if node is None else pb.TopologyInfo(nodes=[pb.NUMANode(ID=node)])
        unhealthy: Container[int] = range(0 if healthy else count)
        if isinstance(healthy, frozenset):
            unhealthy = healthy
        for number, id_ in enumerate(units.unit_ids(uuid, count)):
            health = "Unhealthy" if number in unhealthy else "Healthy"
            add(ID=id_, health=health, topology=topology)
    return listed


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
    container: ContainerConfig = field(default_factory=ContainerConfig)
    ledger: Ledger = field(default_factory=Ledger)
    is_new: Callable[[], bool] = bool
    limits_memory: Callable[[], bool] = bool

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
        if self.streams.open >= MOST_STREAMS:
            context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
            context.set_details(f"{MOST_STREAMS} clients watch this list; end one of them")
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
        resource = self.ledger.current(self.offered.value)
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
        claims: list[Claim] = []
        try:
            for one in given:
                claims.append(self.ledger.claim(resource, one))
            return pb.AllocateResponse(
                container_responses=[
                    _message(self._answer(resource, one, claim))
                    for one, claim in zip(given, claims, strict=True)
                ]
            )
        finally:
            for claim in claims:
                claim.drop()

    def PreStartContainer(
        self, request: pb.PreStartContainerRequest, context: grpc.ServicerContext
    ) -> pb.PreStartContainerResponse:
        """Never asked for: then no container could start while this agent is away, also one that
        starts again. And there is nothing to do: what happened in the run before (`events`) tells
        the user why it ended, and a directory that went missing is mended by `cleanup`.
        """
        return pb.PreStartContainerResponse()

    def end_lists(self) -> None:
        """End every list that is being watched, in order: the kubelet notices at once."""
        self.streams.recall()
        self.offered.wake()

    def _answer(
        self, resource: Resource, given: dict[ServedDevice, list[int]], claim: Claim
    ) -> ContainerEdits:
        share = share_of(resource, given)
        directory = self.allocations.make(share)
        claim.keep(directory.name)
        self._count(share)
        # Several devices share their control nodes: each once, in order.
        nodes = dict.fromkeys(node for served in given for node in served.nodes)
        return edits(
            share, tuple(nodes), directory, self.container, limits_memory=self.limits_memory()
        )

    def _count(self, share: Share) -> None:
        self.counters.allocations.labels(share.resource).inc()
        if share.units > budget.MANY_UNITS:
            self.counters.large_allocations.labels(share.resource).inc()
            get_logger().info("large allocation", units=share.units, hint="use a larger chunk")


def _message(given: ContainerEdits) -> pb.ContainerAllocateResponse:
    return pb.ContainerAllocateResponse(
        envs=given.env,
        mounts=[
            pb.Mount(
                container_path=mount.container_path,
                host_path=str(mount.host_path),
                read_only=mount.read_only,
            )
            for mount in given.mounts
        ],
        devices=[
            pb.DeviceSpec(
                container_path=node.path, host_path=node.path, permissions=node.permissions
            )
            for node in given.devices
        ],
        cdi_devices=[pb.CDIDevice(name=name) for name in given.cdi_devices],
    )
