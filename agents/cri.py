# SPDX-License-Identifier: Apache-2.0
"""Who runs on this node, asked of the container runtime by read-only CRI calls, and told by its
events.

The pid is not part of CRI proper: runtimes tell it in the verbose status, as JSON. It is asked for
once, and again when that process is gone and the container runs (`docker restart` keeps the id).
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

from agents import processes, unix_grpc
from agents._pb.cri import v1_pb2, v1_pb2_grpc
from agents.containers import Container, Pod


@dataclass(frozen=True, slots=True)
class RuntimeVersion:
    """What runs behind the socket, such as `containerd` `v1.7.2`, and the CRI version it speaks."""

    name: str
    version: str
    api_version: str


class CriContainers:
    """`Containers` and `ContainerEvents` from a CRI socket. One connection, made at the first call
    and kept; thread-safe.

    `timeout_s` bounds a whole `list`, however many containers there are to ask about.
    """

    def __init__(self, socket: Path, *, timeout_s: float = 5.0) -> None:
        self._socket = socket
        self._timeout_s = timeout_s
        self._channel = unix_grpc.channel(socket)
        self._streams = unix_grpc.channel(socket, streams=True)
        self._runtime = v1_pb2_grpc.RuntimeServiceStub(self._channel)
        self._lock = threading.Lock()
        self._pids: dict[str, int] = {}

    def version(self) -> RuntimeVersion:
        """Raises Unavailable when the runtime does not answer in time."""
        try:
            answer = self._runtime.Version(v1_pb2.VersionRequest(), timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise unix_grpc.unavailable("runtime", self._socket, error) from error
        return RuntimeVersion(
            answer.runtime_name, answer.runtime_version, answer.runtime_api_version
        )

    def list(self) -> tuple[Container, ...]:
        deadline = time.monotonic() + self._timeout_s
        with self._lock:
            try:
                return self._list(deadline)
            except grpc.RpcError as error:
                raise unix_grpc.unavailable("runtime", self._socket, error) from error

    def pod(self, sandbox_id: str) -> Pod | None:
        """The pod whose sandbox this is; None: the runtime knows none. Raises Unavailable."""
        wanted = v1_pb2.PodSandboxFilter(id=sandbox_id)
        request = v1_pb2.ListPodSandboxRequest(filter=wanted)
        try:
            found = self._runtime.ListPodSandbox(request, timeout=self._timeout_s).items
        except grpc.RpcError as error:
            raise unix_grpc.unavailable("runtime", self._socket, error) from error
        return next((_pod(sandbox) for sandbox in found if sandbox.id == sandbox_id), None)

    def follow(self, changed: Callable[[], None]) -> bool:
        """See `ContainerEvents`. Ends with an error when this is closed."""
        if not tells_everybody(self.version()):
            return False
        runtime = v1_pb2_grpc.RuntimeServiceStub(self._streams)
        try:
            for _ in runtime.GetContainerEvents(v1_pb2.GetEventsRequest()):
                changed()
        except grpc.RpcError as error:
            if unix_grpc.status(error)[0] is grpc.StatusCode.UNIMPLEMENTED:
                return False
            raise unix_grpc.unavailable("runtime", self._socket, error) from error
        return False  # CRI-O ends the stream at once where events are not enabled

    def close(self) -> None:
        self._channel.close()
        self._streams.close()

    def _list(self, deadline: float) -> tuple[Container, ...]:
        # Containers first: the sandbox of each container listed is then surely there.
        running = self._runtime.ListContainers(
            v1_pb2.ListContainersRequest(
                filter=v1_pb2.ContainerFilter(
                    state=v1_pb2.ContainerStateValue(state=v1_pb2.CONTAINER_RUNNING)
                )
            ),
            timeout=_left(deadline),
        ).containers
        sandboxes = self._runtime.ListPodSandbox(
            v1_pb2.ListPodSandboxRequest(), timeout=_left(deadline)
        ).items
        pods = {sandbox.id: _pod(sandbox) for sandbox in sandboxes}
        self._pids = {c.id: self._pids[c.id] for c in running if c.id in self._pids}
        return tuple(
            Container(
                container.id,
                container.metadata.name,
                pods[container.pod_sandbox_id],
                self._pid(container.id, deadline),
                container.created_at,
            )
            for container in running
            if container.pod_sandbox_id in pods
        )

    def _pid(self, container_id: str, deadline: float) -> int | None:
        """None: it ended meanwhile, or this runtime does not tell."""
        if (known := self._pids.pop(container_id, None)) is not None and processes.exists(known):
            self._pids[container_id] = known
            return known
        request = v1_pb2.ContainerStatusRequest(container_id=container_id, verbose=True)
        try:
            answer = self._runtime.ContainerStatus(request, timeout=_left(deadline))
        except grpc.RpcError as error:
            if unix_grpc.status(error)[0] is grpc.StatusCode.NOT_FOUND:
                return None
            raise
        pid = pid_of(answer.info)
        if pid is not None:
            self._pids[container_id] = pid
        return pid


def tells_everybody(runtime: RuntimeVersion) -> bool:
    """Whether events may be followed: containerd before 2.0 hands each event to one of those who
    follow (containerd issue 7318), so that we would take them from the kubelet."""
    if runtime.name != "containerd":
        return True
    major = re.match(r"v?(\d+)\.", runtime.version)
    return major is not None and int(major[1]) >= 2


def pid_of(info: Mapping[str, str]) -> int | None:
    """The pid in a verbose container status.

    None where there is none (containerd tells 0 after the end).
    """
    try:
        details = json.loads(info["info"])
    except (KeyError, ValueError):
        return None
    pid = details.get("pid") if isinstance(details, dict) else None
    return pid if isinstance(pid, int) and not isinstance(pid, bool) and pid > 0 else None


def _pod(sandbox: v1_pb2.PodSandbox) -> Pod:
    return Pod(
        sandbox.metadata.name,
        sandbox.metadata.namespace,
        sandbox.metadata.uid,
        dict(sandbox.labels),
        dict(sandbox.annotations),
    )


def _left(deadline: float) -> float:
    # A deadline that has passed still makes a call, which then fails as any late one does.
    return max(0.001, deadline - time.monotonic())
