# SPDX-License-Identifier: Apache-2.0
"""The stand-in's CRI socket: on the wire, and through our own client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from agents import unix_grpc
from agents._pb.cri import v1_pb2, v1_pb2_grpc
from agents.cri import CriContainers
from agents.standin.cri_server import NAME, CriServer, Sandbox, sandbox_id
from agents.standin.pods import ContainerSpec, ContainerStart, PodSpec, RunningContainer
from tests.fakes.runtime import FakeRuntime

SPEC = PodSpec(
    "notebook",
    [ContainerSpec("main", ["x"]), ContainerSpec("side", ["x"])],
    namespace="jupyter",
    labels={"app": "hub"},
    annotations={"nodeshare/gpu-memory-limit": "16"},
)


class Node:
    """A runtime behind a CRI socket."""

    def __init__(self, socket: Path) -> None:
        self.runtime = FakeRuntime()
        self.sandboxes: list[Sandbox] = []
        self.socket = socket
        self.server = CriServer(socket, self.runtime, lambda: self.sandboxes)

    def run(self, uid: str, id_: str, *, number: int = 0) -> RunningContainer:
        return self.runtime.start(ContainerStart(id_, SPEC, uid, SPEC.containers[number]))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path / "cri.sock")
    made.server.start()
    yield made
    made.server.stop()


@pytest.fixture
def cri(node: Node) -> Iterator[v1_pb2_grpc.RuntimeServiceStub]:
    with unix_grpc.channel(node.socket) as channel:
        yield v1_pb2_grpc.RuntimeServiceStub(channel)


def container_ids(cri: v1_pb2_grpc.RuntimeServiceStub, **wanted: object) -> list[str]:
    request = v1_pb2.ListContainersRequest(filter=v1_pb2.ContainerFilter(**wanted))  # type: ignore[arg-type] # one field a case
    return [one.id for one in cri.ListContainers(request, timeout=5).containers]


def sandbox_uids(cri: v1_pb2_grpc.RuntimeServiceStub, **wanted: object) -> list[str]:
    request = v1_pb2.ListPodSandboxRequest(filter=v1_pb2.PodSandboxFilter(**wanted))  # type: ignore[arg-type] # one field a case
    return [one.metadata.uid for one in cri.ListPodSandbox(request, timeout=5).items]


def test_our_client_finds_container_pod_and_pid(node: Node) -> None:
    running = node.run("u1", "c1")
    client = CriContainers(node.socket)
    (found,) = client.list()
    assert client.version().name == NAME
    client.close()
    assert (found.id, found.name, found.pid) == ("c1", "main", running.pid)
    assert found.created_at_ns == running.created_at_ns
    assert (found.pod.name, found.pod.namespace, found.pod.uid) == ("notebook", "jupyter", "u1")
    assert found.pod.annotations == SPEC.annotations
    assert found.pod.labels["app"] == "hub"


def test_the_labels_are_the_kubelets(node: Node, cri: v1_pb2_grpc.RuntimeServiceStub) -> None:
    node.run("u1", "c1")
    (container,) = cri.ListContainers(v1_pb2.ListContainersRequest(), timeout=5).containers
    pod_labels = {
        "io.kubernetes.pod.name": "notebook",
        "io.kubernetes.pod.namespace": "jupyter",
        "io.kubernetes.pod.uid": "u1",
    }
    assert dict(container.labels) == {**pod_labels, "io.kubernetes.container.name": "main"}
    (sandbox,) = cri.ListPodSandbox(v1_pb2.ListPodSandboxRequest(), timeout=5).items
    assert dict(sandbox.labels) == {**pod_labels, "app": "hub"}
    assert sandbox.id == container.pod_sandbox_id


def test_filters_of_containers(node: Node, cri: v1_pb2_grpc.RuntimeServiceStub) -> None:
    node.run("u1", "c1")
    node.run("u1", "c2", number=1)
    node.run("u2", "c3")
    node.runtime.exit("c3", 1)
    state = v1_pb2.ContainerStateValue
    assert container_ids(cri) == ["c1", "c2", "c3"]
    assert container_ids(cri, id="c2") == ["c2"]
    assert container_ids(cri, pod_sandbox_id=sandbox_id("u1")) == ["c1", "c2"]
    assert container_ids(cri, state=state(state=v1_pb2.CONTAINER_RUNNING)) == ["c1", "c2"]
    assert container_ids(cri, state=state(state=v1_pb2.CONTAINER_EXITED)) == ["c3"]
    # 0 is a state as well, and no container is in it.
    assert container_ids(cri, state=state(state=v1_pb2.CONTAINER_CREATED)) == []
    labels = {"io.kubernetes.container.name": "main", "io.kubernetes.pod.uid": "u2"}
    assert container_ids(cri, label_selector=labels) == ["c3"]
    assert container_ids(cri, id="c3", label_selector={"io.kubernetes.pod.uid": "u1"}) == []


def test_filters_of_sandboxes(node: Node, cri: v1_pb2_grpc.RuntimeServiceStub) -> None:
    node.run("u1", "c1")
    other = PodSpec("other", [])
    node.sandboxes = [Sandbox(other, "u2"), Sandbox(other, "u3", ready=False)]
    state = v1_pb2.PodSandboxStateValue
    assert sorted(sandbox_uids(cri)) == ["u1", "u2", "u3"]
    assert sorted(sandbox_uids(cri, state=state(state=v1_pb2.SANDBOX_READY))) == ["u1", "u2"]
    assert sandbox_uids(cri, state=state(state=v1_pb2.SANDBOX_NOTREADY)) == ["u3"]
    assert sandbox_uids(cri, id=sandbox_id("u2")) == ["u2"]
    assert sandbox_uids(cri, label_selector={"app": "hub"}) == ["u1"]


def test_status(node: Node, cri: v1_pb2_grpc.RuntimeServiceStub) -> None:
    running = node.run("u1", "c1")
    request = v1_pb2.ContainerStatusRequest(container_id="c1", verbose=True)
    answer = cri.ContainerStatus(request, timeout=5)
    assert json.loads(answer.info["info"])["pid"] == running.pid
    assert answer.status.state == v1_pb2.CONTAINER_RUNNING
    node.runtime.exit("c1", 137)
    answer = cri.ContainerStatus(request, timeout=5)
    assert json.loads(answer.info["info"])["pid"] == 0
    assert (answer.status.state, answer.status.exit_code) == (v1_pb2.CONTAINER_EXITED, 137)
    plain = cri.ContainerStatus(v1_pb2.ContainerStatusRequest(container_id="c1"), timeout=5)
    assert dict(plain.info) == {}
    with pytest.raises(grpc.RpcError) as caught:
        cri.ContainerStatus(v1_pb2.ContainerStatusRequest(container_id="c9"), timeout=5)
    assert unix_grpc.status(caught.value)[0] is grpc.StatusCode.NOT_FOUND


def test_a_second_container_of_one_name_is_another_attempt(
    node: Node, cri: v1_pb2_grpc.RuntimeServiceStub
) -> None:
    node.run("u1", "c1")
    node.runtime.exit("c1", 1)
    node.run("u1", "c2")
    node.run("u2", "c3")
    containers = cri.ListContainers(v1_pb2.ListContainersRequest(), timeout=5).containers
    attempts = {one.id: one.metadata.attempt for one in containers}
    assert attempts == {"c1": 0, "c2": 1, "c3": 0}


def test_events(node: Node, cri: v1_pb2_grpc.RuntimeServiceStub) -> None:
    node.run("u0", "c0")
    stream = cri.GetContainerEvents(v1_pb2.GetEventsRequest(), timeout=10)
    # What exists already makes no event.
    assert node.server.watching.wait(5)
    node.run("u1", "c1")
    kinds = [next(stream).container_event_type for _ in range(2)]
    node.runtime.exit("c1", 0)
    stopped = next(stream)
    node.runtime.remove("c1")
    kinds += [stopped.container_event_type, next(stream).container_event_type]
    assert kinds == [
        v1_pb2.CONTAINER_CREATED_EVENT,
        v1_pb2.CONTAINER_STARTED_EVENT,
        v1_pb2.CONTAINER_STOPPED_EVENT,
        v1_pb2.CONTAINER_DELETED_EVENT,
    ]
    assert stopped.container_id == "c1"
    assert stopped.containers_statuses[0].state == v1_pb2.CONTAINER_EXITED
    stream.cancel()


def test_an_older_runtime_has_no_events(tmp_path: Path) -> None:
    server = CriServer(tmp_path / "old.sock", FakeRuntime(), events=False)
    server.start()
    try:
        with unix_grpc.channel(tmp_path / "old.sock") as channel:
            stub = v1_pb2_grpc.RuntimeServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                next(stub.GetContainerEvents(v1_pb2.GetEventsRequest(), timeout=5))
        assert unix_grpc.status(caught.value)[0] is grpc.StatusCode.UNIMPLEMENTED
    finally:
        server.stop()


def test_stop_ends_an_open_event_stream(node: Node, cri: v1_pb2_grpc.RuntimeServiceStub) -> None:
    stream = cri.GetContainerEvents(v1_pb2.GetEventsRequest(), timeout=10)
    assert node.server.watching.wait(5)
    node.server.stop()
    with pytest.raises((grpc.RpcError, StopIteration)):
        next(stream)
