# SPDX-License-Identifier: Apache-2.0
"""The read-only CRI calls, answered from the runner's containers. Starts nothing.

A pod has a sandbox as soon as it is admitted, also while its containers wait.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc

from agents._pb.cri import v1_pb2, v1_pb2_grpc
from agents.standin.pods import PodSpec, RunningContainer, Runtime
from agents.standin.socket_server import SocketServer

NAME = "nodeshare-standin"
VERSION = "0.1.0"
_WORKERS = 8
#: How often an event stream looks for changes.
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A pod that has one. `ready` is false once the pod has ended."""

    spec: PodSpec
    pod_uid: str
    ready: bool = True

    @property
    def id(self) -> str:
        """The same for the same pod, also after a restart."""
        return sandbox_id(self.pod_uid)


def sandbox_id(pod_uid: str) -> str:
    """64 hexadecimal digits, as a runtime would give it."""
    return hashlib.sha256(f"sandbox {pod_uid}".encode()).hexdigest()


class CriServer(v1_pb2_grpc.RuntimeServiceServicer):
    """Serves the socket. `sandboxes` yields pods that have one, besides those with containers.

    `events=False` is a containerd before 1.7: GetContainerEvents is not there.
    """

    def __init__(
        self,
        socket: Path,
        runtime: Runtime,
        sandboxes: Callable[[], Iterable[Sandbox]] = tuple,
        *,
        events: bool = True,
    ) -> None:
        self._runtime = runtime
        self._sandboxes = sandboxes
        self._events = events
        #: Set while an event stream is open and has seen what there is.
        self.watching = threading.Event()
        self._stopping = threading.Event()
        add = partial(v1_pb2_grpc.add_RuntimeServiceServicer_to_server, self)
        self._server = SocketServer(socket, "cri", _WORKERS, add)

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        """Bounded; open event streams end."""
        self._stopping.set()
        self._server.stop()

    def Version(
        self, request: v1_pb2.VersionRequest, context: grpc.ServicerContext
    ) -> v1_pb2.VersionResponse:
        return v1_pb2.VersionResponse(
            version="0.1.0", runtime_name=NAME, runtime_version=VERSION, runtime_api_version="v1"
        )

    def ListPodSandbox(
        self, request: v1_pb2.ListPodSandboxRequest, context: grpc.ServicerContext
    ) -> v1_pb2.ListPodSandboxResponse:
        items = (_sandbox(one) for one in self._all_sandboxes())
        wanted = request.filter
        return v1_pb2.ListPodSandboxResponse(
            items=[
                item
                for item in items
                if wanted.id in ("", item.id)
                and (not wanted.HasField("state") or wanted.state.state == item.state)
                and _selected(item.labels, wanted.label_selector)
            ]
        )

    def ListContainers(
        self, request: v1_pb2.ListContainersRequest, context: grpc.ServicerContext
    ) -> v1_pb2.ListContainersResponse:
        wanted = request.filter
        return v1_pb2.ListContainersResponse(
            containers=[
                item
                for item in _containers(self._runtime.containers())
                if wanted.id in ("", item.id)
                and wanted.pod_sandbox_id in ("", item.pod_sandbox_id)
                and (not wanted.HasField("state") or wanted.state.state == item.state)
                and _selected(item.labels, wanted.label_selector)
            ]
        )

    def ContainerStatus(
        self, request: v1_pb2.ContainerStatusRequest, context: grpc.ServicerContext
    ) -> v1_pb2.ContainerStatusResponse:
        found = [one for one in self._runtime.containers() if one.start.id == request.container_id]
        if not found:
            text = f'container "{request.container_id}": not found'
            context.abort(grpc.StatusCode.NOT_FOUND, text)
        info = {"info": _info(found[0])} if request.verbose else {}
        return v1_pb2.ContainerStatusResponse(status=_status(found[0]), info=info)

    def GetContainerEvents(
        self, request: v1_pb2.GetEventsRequest, context: grpc.ServicerContext
    ) -> Iterator[v1_pb2.ContainerEventResponse]:
        if not self._events:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "unknown method GetContainerEvents")
        known = {one.start.id: one for one in self._runtime.containers()}
        self.watching.set()
        while context.is_active() and not self._stopping.wait(_LOOK_S):
            now = {one.start.id: one for one in self._runtime.containers()}
            yield from _changes(known, now)
            known = now

    def _all_sandboxes(self) -> Sequence[Sandbox]:
        found = {one.pod_uid: one for one in self._sandboxes()}
        for running in self._runtime.containers():
            start = running.start
            found.setdefault(start.pod_uid, Sandbox(start.pod, start.pod_uid))
        return tuple(found.values())


def _changes(
    before: Mapping[str, RunningContainer], now: Mapping[str, RunningContainer]
) -> Iterator[v1_pb2.ContainerEventResponse]:
    for id_, running in now.items():
        if id_ not in before:
            yield _event(running, v1_pb2.CONTAINER_CREATED_EVENT)
            yield _event(running, v1_pb2.CONTAINER_STARTED_EVENT)
        former = before.get(id_)
        if running.exit_code is not None and (former is None or former.exit_code is None):
            yield _event(running, v1_pb2.CONTAINER_STOPPED_EVENT)
    for id_, gone in before.items():
        if id_ not in now:
            yield _event(gone, v1_pb2.CONTAINER_DELETED_EVENT)


def _event(
    running: RunningContainer, kind: v1_pb2.ContainerEventType.ValueType
) -> v1_pb2.ContainerEventResponse:
    return v1_pb2.ContainerEventResponse(
        container_id=running.start.id,
        container_event_type=kind,
        created_at=time.time_ns(),
        containers_statuses=[_status(running)],
    )


def _sandbox(one: Sandbox) -> v1_pb2.PodSandbox:
    spec = one.spec
    return v1_pb2.PodSandbox(
        id=one.id,
        metadata=v1_pb2.PodSandboxMetadata(
            name=spec.name, uid=one.pod_uid, namespace=spec.namespace
        ),
        state=v1_pb2.SANDBOX_READY if one.ready else v1_pb2.SANDBOX_NOTREADY,
        labels={**spec.labels, **_pod_labels(spec, one.pod_uid)},
        annotations=spec.annotations,
        runtime_handler="",
    )


def _containers(all_running: Iterable[RunningContainer]) -> Iterator[v1_pb2.Container]:
    attempts: dict[tuple[str, str], int] = {}
    for running in sorted(all_running, key=lambda one: one.created_at_ns):
        start = running.start
        attempt = attempts.setdefault((start.pod_uid, start.spec.name), 0)
        attempts[start.pod_uid, start.spec.name] += 1
        yield v1_pb2.Container(
            id=start.id,
            pod_sandbox_id=sandbox_id(start.pod_uid),
            metadata=v1_pb2.ContainerMetadata(name=start.spec.name, attempt=attempt),
            state=_state(running),
            created_at=running.created_at_ns,
            labels=_container_labels(running),
        )


def _status(running: RunningContainer) -> v1_pb2.ContainerStatus:
    return v1_pb2.ContainerStatus(
        id=running.start.id,
        metadata=v1_pb2.ContainerMetadata(name=running.start.spec.name),
        state=_state(running),
        created_at=running.created_at_ns,
        started_at=running.created_at_ns,
        exit_code=running.exit_code or 0,
        labels=_container_labels(running),
    )


def _info(running: RunningContainer) -> str:
    """The JSON of containerd's verbose status, as far as it is read; pid 0 after the end."""
    return json.dumps(
        {
            "sandboxID": sandbox_id(running.start.pod_uid),
            "pid": running.pid if running.exit_code is None else 0,
            "removing": False,
        }
    )


def _state(running: RunningContainer) -> v1_pb2.ContainerState.ValueType:
    ended = running.exit_code is not None
    return v1_pb2.CONTAINER_EXITED if ended else v1_pb2.CONTAINER_RUNNING


def _pod_labels(spec: PodSpec, pod_uid: str) -> dict[str, str]:
    return {
        "io.kubernetes.pod.name": spec.name,
        "io.kubernetes.pod.namespace": spec.namespace,
        "io.kubernetes.pod.uid": pod_uid,
    }


def _container_labels(running: RunningContainer) -> dict[str, str]:
    start = running.start
    return {
        **_pod_labels(start.pod, start.pod_uid),
        "io.kubernetes.container.name": start.spec.name,
    }


def _selected(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())
