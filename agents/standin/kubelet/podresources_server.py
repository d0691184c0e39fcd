# SPDX-License-Identifier: Apache-2.0
"""The pod resources service: who holds what, and what could be held. Reads only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import grpc

from agents._pb.podresources import v1_pb2, v1_pb2_grpc
from agents.standin.kubelet.allocations import NO_NUMA
from agents.standin.kubelet.pods import PodRecord
from agents.standin.kubelet.state import DeviceState
from agents.standin.socket_server import SocketServer

_WORKERS = 4


class RateLimit:
    """So many calls a second, and so many at once (a token bucket, as the kubelet's)."""

    def __init__(
        self, per_s: float, burst: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = float(burst)
        self._at = clock()

    def allows(self) -> bool:
        """Whether one more call may be made now; it then counts."""
        with self._lock:
            now = self._clock()
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
            self._at = now
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True


class PodResourcesServer(v1_pb2_grpc.PodResourcesListerServicer):
    """Serves the socket. `pods` yields those that run here; the state's lock is held."""

    def __init__(
        self,
        socket: Path,
        state: DeviceState,
        pods: Callable[[], Iterable[PodRecord]],
        limit: RateLimit,
    ) -> None:
        self._state = state
        self._pods = pods
        self._limit = limit
        add = partial(v1_pb2_grpc.add_PodResourcesListerServicer_to_server, self)
        server = SocketServer(socket, "podresources", _WORKERS, add)
        self.start, self.stop = server.start, server.stop

    def List(
        self, request: v1_pb2.ListPodResourcesRequest, context: grpc.ServicerContext
    ) -> v1_pb2.ListPodResourcesResponse:
        self._limited(context)
        with self._state.changed:
            return v1_pb2.ListPodResourcesResponse(
                pod_resources=[self._pod(pod) for pod in self._pods()]
            )

    def Get(
        self, request: v1_pb2.GetPodResourcesRequest, context: grpc.ServicerContext
    ) -> v1_pb2.GetPodResourcesResponse:
        self._limited(context)
        key = f"{request.pod_namespace}/{request.pod_name}"
        with self._state.changed:
            found = next((pod for pod in self._pods() if pod.spec.key == key), None)
            answer = None if found is None else self._pod(found)
        if answer is None:
            text = f"pod {request.pod_name} in namespace {request.pod_namespace} not found"
            context.abort(grpc.StatusCode.UNKNOWN, text)
        return v1_pb2.GetPodResourcesResponse(pod_resources=answer)

    def GetAllocatableResources(
        self, request: v1_pb2.AllocatableResourcesRequest, context: grpc.ServicerContext
    ) -> v1_pb2.AllocatableResourcesResponse:
        self._limited(context)
        with self._state.changed:
            table = self._state.table
            return v1_pb2.AllocatableResourcesResponse(
                devices=[
                    entry
                    for name in table.names()
                    for entry in _entries(name, table.healthy(name), table.numa(name))
                ]
            )

    def _limited(self, context: grpc.ServicerContext) -> None:
        if not self._limit.allows():
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")

    def _pod(self, pod: PodRecord) -> v1_pb2.PodResources:
        return v1_pb2.PodResources(
            name=pod.spec.name,
            namespace=pod.spec.namespace,
            containers=[
                v1_pb2.ContainerResources(
                    name=name,
                    devices=[
                        entry
                        for allocation in self._state.allocations.of_container(pod.uid, name)
                        for entry in _entries(
                            allocation.resource, allocation.ids, _numa(allocation.ids_by_numa)
                        )
                    ],
                )
                for name, container in pod.containers.items()
                if not container.init
            ],
        )


def _entries(
    resource: str, ids: Iterable[str], numa: Mapping[str, tuple[int, ...]]
) -> Iterator[v1_pb2.ContainerDevices]:
    """One entry for an id without topology, else one for each of its NUMA nodes."""
    for id_ in ids:
        if not numa.get(id_):
            yield v1_pb2.ContainerDevices(resource_name=resource, device_ids=[id_])
        for node in numa.get(id_, ()):
            topology = v1_pb2.TopologyInfo(nodes=[v1_pb2.NUMANode(ID=node)])
            yield v1_pb2.ContainerDevices(
                resource_name=resource, device_ids=[id_], topology=topology
            )


def _numa(ids_by_numa: Mapping[int, tuple[str, ...]]) -> Mapping[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for node, ids in ids_by_numa.items():
        if node != NO_NUMA:
            for id_ in ids:
                found[id_] = (*found.get(id_, ()), node)
    return found
