# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from agents import unix_grpc
from agents._pb.cri import v1_pb2, v1_pb2_grpc
from agents.containers import Container, Pod
from agents.cri import CriContainers, RuntimeVersion, pid_of
from agents.errors import Unavailable

#: More than the kernel ever gives out (PID_MAX_LIMIT is 2^22).
NOBODY = 1 << 23


class FakeCri(v1_pb2_grpc.RuntimeServiceServicer):
    """A runtime with the containers that a test puts in."""

    def __init__(self) -> None:
        self.sandboxes: list[v1_pb2.PodSandbox] = []
        self.containers: list[v1_pb2.Container] = []
        self.info: dict[str, str] = {}
        self.asked: list[str] = []
        self.hang = threading.Event()
        self.hang.set()
        self.runtime = "containerd", "v2.0.1"
        #: What an event stream says: an event each, or how it ends.
        self.stream: list[grpc.StatusCode | None] = []

    def add(self, uid: str, container: str, info: object, **sandbox: dict[str, str]) -> None:
        self.sandboxes.append(
            v1_pb2.PodSandbox(
                id=f"sandbox-{uid}",
                metadata=v1_pb2.PodSandboxMetadata(name=f"pod-{uid}", namespace="ns", uid=uid),
                labels=sandbox.get("labels", {}),
                annotations=sandbox.get("annotations", {}),
            )
        )
        self.containers.append(
            v1_pb2.Container(
                id=container,
                pod_sandbox_id=f"sandbox-{uid}",
                metadata=v1_pb2.ContainerMetadata(name="main"),
                state=v1_pb2.CONTAINER_RUNNING,
                created_at=7,
            )
        )
        self.info[container] = json.dumps(info)

    def Version(
        self, request: v1_pb2.VersionRequest, context: grpc.ServicerContext
    ) -> v1_pb2.VersionResponse:
        return v1_pb2.VersionResponse(
            version="0.1.0",
            runtime_name=self.runtime[0],
            runtime_version=self.runtime[1],
            runtime_api_version="v1",
        )

    def ListPodSandbox(
        self, request: v1_pb2.ListPodSandboxRequest, context: grpc.ServicerContext
    ) -> v1_pb2.ListPodSandboxResponse:
        return v1_pb2.ListPodSandboxResponse(items=self.sandboxes)

    def ListContainers(
        self, request: v1_pb2.ListContainersRequest, context: grpc.ServicerContext
    ) -> v1_pb2.ListContainersResponse:
        assert request.filter.HasField("state")
        wanted = request.filter.state.state
        return v1_pb2.ListContainersResponse(
            containers=[one for one in self.containers if one.state == wanted]
        )

    def ContainerStatus(
        self, request: v1_pb2.ContainerStatusRequest, context: grpc.ServicerContext
    ) -> v1_pb2.ContainerStatusResponse:
        assert request.verbose
        self.hang.wait(10)
        self.asked.append(request.container_id)
        if request.container_id not in self.info:
            context.abort(grpc.StatusCode.NOT_FOUND, "not found")
        info = self.info[request.container_id]
        return v1_pb2.ContainerStatusResponse(info={"info": info})

    def GetContainerEvents(
        self, request: v1_pb2.GetEventsRequest, context: grpc.ServicerContext
    ) -> Iterator[v1_pb2.ContainerEventResponse]:
        for said in self.stream:
            if said is not None:
                context.abort(said, "no more")
            yield v1_pb2.ContainerEventResponse(container_id="c1")


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "cri.sock"


@pytest.fixture
def runtime(socket: Path) -> Iterator[FakeCri]:
    fake = FakeCri()
    executor = ThreadPoolExecutor(2)
    server = grpc.server(executor)
    v1_pb2_grpc.add_RuntimeServiceServicer_to_server(fake, server)
    unix_grpc.listen(server, socket)
    server.start()
    yield fake
    fake.hang.set()
    server.stop(None).wait(2)
    executor.shutdown(wait=True)


@pytest.fixture
def containers(socket: Path) -> Iterator[CriContainers]:
    made = CriContainers(socket)
    yield made
    made.close()


def test_a_container_with_its_pod(runtime: FakeCri, containers: CriContainers) -> None:
    labels, annotations = {"app": "notebook"}, {"nodeshare/gpu-memory-limit": "16"}
    runtime.add("u1", "c1", {"pid": 4711}, labels=labels, annotations=annotations)
    assert containers.list() == (
        Container("c1", "main", Pod("pod-u1", "ns", "u1", labels, annotations), 4711, 7),
    )


def test_a_pid_is_asked_once(runtime: FakeCri, containers: CriContainers) -> None:
    runtime.add("u1", "c1", {"pid": 1})
    containers.list()
    runtime.add("u2", "c2", {"pid": os.getpid()})
    assert [one.pid for one in containers.list()] == [1, os.getpid()]
    assert runtime.asked == ["c1", "c2"]
    # What is gone is forgotten, so that the memory of a long-lived agent does not grow.
    gone = runtime.containers.pop(0)
    assert [one.pid for one in containers.list()] == [os.getpid()]
    runtime.containers.append(gone)
    containers.list()
    assert runtime.asked == ["c1", "c2", "c1"]


def test_a_container_that_is_started_again_has_another_pid(
    runtime: FakeCri, containers: CriContainers
) -> None:
    runtime.add("u1", "c1", {"pid": NOBODY})
    assert [one.pid for one in containers.list()] == [NOBODY]
    runtime.info["c1"] = json.dumps({"pid": os.getpid()})
    assert [one.pid for one in containers.list()] == [os.getpid()]


def test_ended_containers_are_left_out(runtime: FakeCri, containers: CriContainers) -> None:
    runtime.add("u1", "c1", {"pid": 1})
    runtime.containers[0].state = v1_pb2.CONTAINER_EXITED
    assert containers.list() == ()


def test_a_container_whose_sandbox_is_gone_is_left_out(
    runtime: FakeCri, containers: CriContainers
) -> None:
    runtime.add("u1", "c1", {"pid": 1})
    runtime.sandboxes.clear()
    assert containers.list() == ()


def test_a_container_that_ends_between_two_calls_has_no_pid(
    runtime: FakeCri, containers: CriContainers
) -> None:
    runtime.add("u1", "c1", {"pid": 1})
    del runtime.info["c1"]
    assert [one.pid for one in containers.list()] == [None]


@pytest.mark.parametrize(
    ("info", "pid"),
    [
        ({"info": '{"pid": 12, "sandboxID": "x"}'}, 12),
        ({"info": '{"pid": 0}'}, None),
        ({"info": '{"pid": -1}'}, None),
        ({"info": '{"pid": "12"}'}, None),
        ({"info": '{"pid": true}'}, None),
        ({"info": "{}"}, None),
        ({"info": "[1]"}, None),
        ({"info": "not json"}, None),
        ({"other": "{}"}, None),
        ({}, None),
    ],
)
def test_pid_of(info: dict[str, str], pid: int | None) -> None:
    assert pid_of(info) == pid


def test_version(runtime: FakeCri, containers: CriContainers) -> None:
    assert containers.version() == RuntimeVersion("containerd", "v2.0.1", "v1")


def test_nobody_there(containers: CriContainers, socket: Path) -> None:
    with pytest.raises(Unavailable, match=f"runtime at '{socket}' answered UNAVAILABLE"):
        containers.list()
    with pytest.raises(Unavailable, match="answered UNAVAILABLE"):
        containers.version()


def test_the_limit_is_for_the_whole_list(runtime: FakeCri, socket: Path) -> None:
    for number in range(5):
        runtime.add(f"u{number}", f"c{number}", {"pid": number + 1})
    runtime.hang.clear()
    impatient = CriContainers(socket, timeout_s=0.2)
    with pytest.raises(Unavailable, match="DEADLINE_EXCEEDED"):
        impatient.list()
    impatient.close()


def test_every_event_is_told_until_the_stream_breaks(
    runtime: FakeCri, containers: CriContainers
) -> None:
    told: list[int] = []
    runtime.stream = [None, None, grpc.StatusCode.UNAVAILABLE]
    with pytest.raises(Unavailable, match="answered UNAVAILABLE: no more"):
        containers.follow(lambda: told.append(1))
    assert told == [1, 1]


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param([grpc.StatusCode.UNIMPLEMENTED], id="an old runtime"),
        pytest.param([], id="CRI-O without events"),
    ],
)
def test_a_runtime_that_tells_nothing(
    runtime: FakeCri, containers: CriContainers, stream: list[grpc.StatusCode | None]
) -> None:
    runtime.stream = stream
    assert containers.follow(lambda: None) is False


def test_a_runtime_that_is_away_cannot_be_followed(socket: Path) -> None:
    containers = CriContainers(socket, timeout_s=1)
    with pytest.raises(Unavailable):
        containers.follow(lambda: None)
    containers.close()


@pytest.mark.parametrize(
    ("name", "version", "told"),
    [
        ("containerd", "v1.7.27", False),
        ("containerd", "1.6.20~ds1", False),
        ("containerd", "unknown", False),
        ("containerd", "v2.0.0", True),
        ("containerd", "2.1.4", True),
        ("cri-o", "1.29.1", True),
    ],
)
def test_the_kubelets_events_are_left_to_it(
    runtime: FakeCri, containers: CriContainers, name: str, version: str, told: bool
) -> None:
    heard: list[int] = []
    runtime.runtime = name, version
    runtime.stream = [None]
    assert containers.follow(lambda: heard.append(1)) is False, "the stream ended"
    assert bool(heard) is told
