# SPDX-License-Identifier: Apache-2.0
"""What a pod is to the stand-in: values only. Knows no kubelet and no kernel."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


class VolumePropagation(enum.Enum):
    """Kubernetes' mountPropagation of a volume mount."""

    NONE = "None"
    HOST_TO_CONTAINER = "HostToContainer"
    BIDIRECTIONAL = "Bidirectional"


@dataclass(frozen=True, slots=True)
class Volume:
    """A host path in a container: a hostPath volume, or a mount that a device plugin asked for."""

    host_path: Path
    container_path: str
    read_only: bool = False
    propagation: VolumePropagation = VolumePropagation.NONE


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A device node of the host in a container, with cgroup permissions such as `rw`."""

    host_path: Path
    container_path: str
    permissions: str = "rw"


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """One container of a pod. Limits: None is none. `cpu_millis` 1500 is one and a half CPUs (a
    quota).
    """

    name: str
    command: Sequence[str]
    resources: Mapping[str, int] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    volumes: Sequence[Volume] = ()
    cpu_millis: int | None = None
    memory_bytes: int | None = None
    cpuset: str | None = None


class RestartPolicy(enum.Enum):
    """Kubernetes' restartPolicy: whether an ended container is started again."""

    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"


@dataclass(frozen=True, slots=True)
class PodSpec:
    """A pod of one or more containers. `init_containers` run one after the other before them (no
    sidecars).
    """

    name: str
    containers: Sequence[ContainerSpec]
    namespace: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    restart_policy: RestartPolicy = RestartPolicy.NEVER
    init_containers: Sequence[ContainerSpec] = ()

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


class PodPhase(enum.Enum):
    """Kubernetes' pod phase, as far as the stand-in has it."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class ContainerStart:
    """Everything the runner needs to start one container: the spec, and what Allocate answered."""

    id: str
    pod: PodSpec
    pod_uid: str
    spec: ContainerSpec
    env: Mapping[str, str] = field(default_factory=dict)
    volumes: Sequence[Volume] = ()
    devices: Sequence[DeviceNode] = ()


@dataclass(frozen=True, slots=True)
class RunningContainer:
    """A started container. `pid` is its first process, as the host numbers it; `cgroup` its path
    below the hierarchy root, such as `/nodeshare-demo/kubepods/burstable/pod<uid>/<id>`;
    `exit_code` None while it runs."""

    start: ContainerStart
    pid: int
    cgroup: str
    created_at_ns: int
    exit_code: int | None = None


class Runtime(Protocol):
    """Starts and ends containers. Thread-safe; blocking calls are bounded (10 s)."""

    def start(self, start: ContainerStart) -> RunningContainer:
        """Raises AgentError when it cannot be started, with the reason a kubelet would show."""

    def containers(self) -> tuple[RunningContainer, ...]:
        """All that were started and not removed, ended ones with their exit code."""

    def stop(self, container_id: str, *, grace_s: float = 0.0) -> None:
        """SIGTERM, wait, SIGKILL; done when every process in the container's cgroup is gone."""

    def remove(self, container_id: str) -> None:
        """Stop if need be, and take away cgroup and root directory."""

    def close(self) -> None:
        """Remove everything that was started."""
