# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from agents import unix_grpc
from agents._pb.podresources import v1_pb2, v1_pb2_grpc
from agents.errors import Unavailable
from agents.podresources import KubeletPodResources, PodDevices


class Lister(v1_pb2_grpc.PodResourcesListerServicer):
    """A kubelet that answers what a test says."""

    def __init__(self) -> None:
        self.answer: Callable[[], v1_pb2.ListPodResourcesResponse] = v1_pb2.ListPodResourcesResponse
        self.devices: list[v1_pb2.ContainerDevices] = []
        self.released = threading.Event()

    def List(
        self, request: v1_pb2.ListPodResourcesRequest, context: grpc.ServicerContext
    ) -> v1_pb2.ListPodResourcesResponse:
        return self.answer()

    def GetAllocatableResources(
        self, request: v1_pb2.AllocatableResourcesRequest, context: grpc.ServicerContext
    ) -> v1_pb2.AllocatableResourcesResponse:
        return v1_pb2.AllocatableResourcesResponse(devices=self.devices)

    def Get(
        self, request: v1_pb2.GetPodResourcesRequest, context: grpc.ServicerContext
    ) -> v1_pb2.GetPodResourcesResponse:
        raise NotImplementedError


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "kubelet.sock"


@pytest.fixture
def kubelet(socket: Path) -> Iterator[Lister]:
    lister = Lister()
    executor = ThreadPoolExecutor(2)
    server = grpc.server(executor)
    v1_pb2_grpc.add_PodResourcesListerServicer_to_server(lister, server)
    unix_grpc.listen(server, socket)
    server.start()
    yield lister
    lister.released.set()
    server.stop(None).wait(2)
    executor.shutdown(wait=True)


@pytest.fixture
def client(socket: Path) -> Iterator[KubeletPodResources]:
    made = KubeletPodResources(socket, timeout_s=5.0)
    yield made
    made.close()


def devices(resource: str, *ids: str) -> v1_pb2.ContainerDevices:
    return v1_pb2.ContainerDevices(resource_name=resource, device_ids=ids)


def test_entries_of_one_resource_are_merged_and_sorted(
    kubelet: Lister, client: KubeletPodResources
) -> None:
    entries = [
        devices("r/a", "d2"),
        devices("r/b", "x"),
        devices("r/a", "d1"),
        devices("r/a", "d2"),
    ]
    kubelet.answer = lambda: v1_pb2.ListPodResourcesResponse(
        pod_resources=[
            v1_pb2.PodResources(
                name="notebook",
                namespace="jupyter",
                containers=[
                    v1_pb2.ContainerResources(name="main", devices=entries),
                    v1_pb2.ContainerResources(name="side"),
                ],
            )
        ]
    )
    assert client.list() == (
        PodDevices(
            "notebook",
            "jupyter",
            {"main": {"r/a": ("d1", "d2"), "r/b": ("x",)}, "side": {}},
        ),
    )


def test_an_empty_node(kubelet: Lister, client: KubeletPodResources) -> None:
    assert client.list() == ()
    assert client.allocatable() == {}


def test_an_answer_over_grpcs_default_limit_is_read(
    kubelet: Lister, client: KubeletPodResources
) -> None:
    ids = [f"GPU-5f3c1a2e-7b9d-4c1f-a6e8-0d2b4f6a8c1e::{number:05d}" for number in range(69_904)]
    kubelet.devices = [devices("nodeshare/gpu-memory", id_) for id_ in ids]
    size = v1_pb2.AllocatableResourcesResponse(devices=kubelet.devices).ByteSize()
    assert size > unix_grpc.DEFAULT_RECEIVE_BYTES
    assert client.allocatable() == {"nodeshare/gpu-memory": tuple(ids)}


def test_nobody_there(client: KubeletPodResources, socket: Path) -> None:
    with pytest.raises(Unavailable, match=f"podresources at '{socket}' answered UNAVAILABLE"):
        client.list()
    with pytest.raises(Unavailable, match=r"podresources at .* answered UNAVAILABLE"):
        client.allocatable()


def test_a_kubelet_that_hangs_is_not_waited_for(kubelet: Lister, socket: Path) -> None:
    def hang() -> v1_pb2.ListPodResourcesResponse:
        kubelet.released.wait(10)
        return v1_pb2.ListPodResourcesResponse()

    kubelet.answer = hang
    impatient = KubeletPodResources(socket, timeout_s=0.1)
    with pytest.raises(Unavailable, match="DEADLINE_EXCEEDED"):
        impatient.list()
    impatient.close()


@pytest.mark.loud
def test_an_error_in_the_kubelet(kubelet: Lister, client: KubeletPodResources) -> None:
    def fail() -> v1_pb2.ListPodResourcesResponse:
        raise RuntimeError("broken")

    kubelet.answer = fail
    with pytest.raises(Unavailable, match=r"UNKNOWN: .*broken"):
        client.list()
