# SPDX-License-Identifier: Apache-2.0
"""Which pod holds which device ids, as the kubelet tells it. Knows neither uids nor container ids.

The kubelet answers at most 100 calls a second (burst 10), and a long answer is megabytes: ask on a
change or on a slow tick, never in a loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc

from agents import unix_grpc
from agents._pb.podresources import v1_pb2, v1_pb2_grpc

#: Device ids by resource name, sorted.
DeviceIds = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class PodDevices:
    """What the containers of one pod hold: container name to resource name to device ids.

    A container without devices is there, with nothing.
    """

    name: str
    namespace: str
    containers: Mapping[str, DeviceIds]


class PodResources(Protocol):
    """The kubelet's view of who holds what. Blocking; call it from a worker thread."""

    def list(self) -> tuple[PodDevices, ...]:
        """The pods that run here. Raises Unavailable when the kubelet does not answer in time."""

    def allocatable(self) -> DeviceIds:
        """All healthy devices, in use or not. Raises Unavailable like `list`."""


class KubeletPodResources:
    """The kubelet's pod resources socket.

    One connection, made at the first call and kept; thread-safe.
    """

    def __init__(self, socket: Path, *, timeout_s: float = 5.0) -> None:
        self._socket = socket
        self._timeout_s = timeout_s
        self._channel = unix_grpc.channel(socket)
        self._kubelet = v1_pb2_grpc.PodResourcesListerStub(self._channel)

    def list(self) -> tuple[PodDevices, ...]:
        try:
            answer = self._kubelet.List(v1_pb2.ListPodResourcesRequest(), timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise unix_grpc.unavailable("podresources", self._socket, error) from error
        return tuple(
            PodDevices(
                pod.name,
                pod.namespace,
                {container.name: _merged(container.devices) for container in pod.containers},
            )
            for pod in answer.pod_resources
        )

    def allocatable(self) -> DeviceIds:
        request = v1_pb2.AllocatableResourcesRequest()
        try:
            answer = self._kubelet.GetAllocatableResources(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise unix_grpc.unavailable("podresources", self._socket, error) from error
        return _merged(answer.devices)

    def close(self) -> None:
        self._channel.close()


def _merged(entries: Iterable[v1_pb2.ContainerDevices]) -> DeviceIds:
    """The kubelet sends an entry for each id, and one id twice when it is near two NUMA nodes."""
    found: dict[str, set[str]] = {}
    for entry in entries:
        found.setdefault(entry.resource_name, set()).update(entry.device_ids)
    return {resource: tuple(sorted(ids)) for resource, ids in found.items()}
