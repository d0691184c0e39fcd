# SPDX-License-Identifier: Apache-2.0
"""The embedded kubelet's `Runtime`, with real containers of a real containerd and runc.

One sandbox a pod, as a kubelet makes them. Knows no agent.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agents.cri import CriContainers
from agents.errors import Unavailable
from agents.hostfs import DEV
from agents.standin.pods import ContainerStart, RunningContainer, VolumePropagation
from tests.fakes.containerd.cri import MESSAGES, Cri
from tests.fakes.containerd.daemon import IMAGE, Containerd

_PROPAGATION = {
    VolumePropagation.NONE: 0,
    VolumePropagation.HOST_TO_CONTAINER: 1,
    VolumePropagation.BIDIRECTIONAL: 2,
}
_POD, _CONTAINER, _NODE = 0, 1, 2
_LOCALHOST = 2
#: What container engines hide of /proc, so that pods cannot see it.
_MASKED = ("/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware")
_READ_ONLY = ("/proc/bus", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True, slots=True)
class _Sandbox:
    id: str
    config: Any


class ContainerdRuntime:
    """Thread-safe. `shared_pids`: all containers of a pod in one pid namespace; `dev`: where the
    device nodes of this host are. `profile`: the seccomp profile (`Localhost`) of containers that
    are started from now on; None: they have none.
    """

    def __init__(
        self,
        daemon: Containerd,
        cgroup_parent: str,
        *,
        shared_pids: bool = False,
        dev: Path = DEV,
    ) -> None:
        self._dev = dev
        self.profile: Path | None = None
        self._cri, self._listing = Cri(daemon.socket), CriContainers(daemon.socket)
        self._parent = cgroup_parent
        self._namespaces = MESSAGES["NamespaceOption"](
            network=_NODE, pid=_POD if shared_pids else _CONTAINER
        )
        self._lock = threading.Lock()
        self._sandboxes: dict[str, _Sandbox] = {}
        self._ids: dict[str, str] = {}
        self._running: dict[str, RunningContainer] = {}

    def start(self, start: ContainerStart) -> RunningContainer:
        with self._lock:
            sandbox = self._sandboxes.get(start.pod_uid) or self._sandbox(start)
        request = MESSAGES["CreateContainerRequest"](
            pod_sandbox_id=sandbox.id, config=self._config(start), sandbox_config=sandbox.config
        )
        made = self._cri.call("CreateContainer", request)
        self._cri.call("StartContainer", made)
        pid = next(one.pid for one in self._listing.list() if one.id == made.container_id)
        assert pid is not None
        cgroup = f"{self._pod_cgroup(start)}/{made.container_id}"
        running = RunningContainer(start, pid, cgroup, time.time_ns())
        with self._lock:
            self._ids[start.id] = made.container_id
            self._running[start.id] = running
        return running

    def containers(self) -> tuple[RunningContainer, ...]:
        try:
            alive = {one.id for one in self._listing.list()}
        except Unavailable:  # it is being restarted: all is as it was, as far as anybody knows
            alive = set(self._ids.values())
        with self._lock:
            for key, container in self._running.items():
                if container.exit_code is None and self._ids[key] not in alive:
                    self._running[key] = replace(container, exit_code=self._exit_code(key))
            return tuple(self._running.values())

    def _exit_code(self, key: str) -> int:
        answer = self._cri.call("ContainerStatus", self._message(self._ids[key]))
        return int(answer.status.exit_code)

    def stop(self, container_id: str, *, grace_s: float = 0.0) -> None:
        request = MESSAGES["StopContainerRequest"](
            container_id=self._ids[container_id], timeout=int(grace_s)
        )
        self._cri.call("StopContainer", request)

    def remove(self, container_id: str) -> None:
        self.stop(container_id)
        with self._lock:
            gone = self._running.pop(container_id)
            self._cri.call("RemoveContainer", self._message(self._ids.pop(container_id)))
            uid = gone.start.pod_uid
            if all(one.start.pod_uid != uid for one in self._running.values()):
                sandbox = MESSAGES["SandboxId"](pod_sandbox_id=self._sandboxes.pop(uid).id)
                self._cri.call("StopPodSandbox", sandbox)
                self._cri.call("RemovePodSandbox", sandbox)

    def close(self) -> None:
        for key in [*self._running]:
            self.remove(key)
        self._listing.close()
        self._cri.close()

    def run(self, pod: str, container: str, command: str) -> str:
        """The output of a shell command in a container, which has to succeed."""
        request = MESSAGES["ExecSyncRequest"](
            container_id=self.id(pod, container), cmd=["/bin/sh", "-c", command], timeout=20
        )
        answer = self._cri.call("ExecSync", request)
        said = bytes(answer.stdout + answer.stderr).decode()
        assert answer.exit_code == 0, f"{command}: {said}"
        return said

    def resize(self, pod: str, container: str, *, cpu_millis: int, memory_bytes: int) -> None:
        """Limits of a running container, as an in-place resize of its pod."""
        request = MESSAGES["UpdateContainerResourcesRequest"](
            container_id=self.id(pod, container),
            linux=MESSAGES["LinuxContainerResources"](
                cpu_period=100_000, cpu_quota=cpu_millis * 100, memory_limit_in_bytes=memory_bytes
            ),
        )
        self._cri.call("UpdateContainerResources", request)

    def id(self, pod: str, container: str) -> str:
        """The runtime's id of the container that runs under this name."""
        with self._lock:
            return next(
                self._ids[key]
                for key, one in self._running.items()
                if (one.start.pod.key, one.start.spec.name) == (pod, container)
                and one.exit_code is None
            )

    def _message(self, container_id: str) -> Any:
        return MESSAGES["ContainerId"](container_id=container_id)

    def _pod_cgroup(self, start: ContainerStart) -> str:
        return f"/{self._parent}/kubepods/burstable/pod{start.pod_uid}"

    def _sandbox(self, start: ContainerStart) -> _Sandbox:
        pod = start.pod
        config = MESSAGES["PodSandboxConfig"](
            metadata=MESSAGES["PodSandboxMetadata"](
                name=pod.name, uid=start.pod_uid, namespace=pod.namespace
            ),
            labels={**pod.labels, **_labels(start)},
            annotations=dict(pod.annotations),
            linux=MESSAGES["LinuxPodSandboxConfig"](
                cgroup_parent=self._pod_cgroup(start),
                security_context=MESSAGES["LinuxSandboxSecurityContext"](
                    namespace_options=self._namespaces
                ),
            ),
        )
        answer = self._cri.call("RunPodSandbox", MESSAGES["RunPodSandboxRequest"](config=config))
        sandbox = _Sandbox(answer.pod_sandbox_id, config)
        self._sandboxes[start.pod_uid] = sandbox
        return sandbox

    def _config(self, start: ContainerStart) -> Any:
        spec = start.spec
        mounts = [
            MESSAGES["Mount"](
                container_path=volume.container_path,
                host_path=str(volume.host_path),
                readonly=volume.read_only,
                propagation=_PROPAGATION[volume.propagation],
            )
            for volume in (*spec.volumes, *start.volumes)
        ]
        devices = [
            MESSAGES["Device"](
                container_path=node.container_path,
                host_path=str(self._dev / node.host_path.relative_to(DEV)),
                permissions=node.permissions,
            )
            for node in start.devices
        ]
        environment = {**spec.env, **start.env}
        return MESSAGES["ContainerConfig"](
            metadata=MESSAGES["ContainerMetadata"](name=spec.name, attempt=len(self._ids)),
            image=MESSAGES["ImageSpec"](image=IMAGE),
            command=list(spec.command),
            envs=[MESSAGES["KeyValue"](key=k, value=v) for k, v in environment.items()],
            mounts=mounts,
            devices=devices,
            labels={**_labels(start), "io.kubernetes.container.name": spec.name},
            linux=MESSAGES["LinuxContainerConfig"](
                resources=MESSAGES["LinuxContainerResources"](
                    cpu_period=100_000,
                    cpu_quota=(spec.cpu_millis or 0) * 100,
                    memory_limit_in_bytes=spec.memory_bytes or 0,
                    cpuset_cpus=spec.cpuset or "",
                ),
                security_context=MESSAGES["LinuxContainerSecurityContext"](
                    namespace_options=self._namespaces,
                    masked_paths=_MASKED,
                    readonly_paths=_READ_ONLY,
                    seccomp=self._seccomp(),
                ),
            ),
        )

    def _seccomp(self) -> Any:
        if self.profile is None:
            return None
        return MESSAGES["SecurityProfile"](profile_type=_LOCALHOST, localhost_ref=str(self.profile))


def _labels(start: ContainerStart) -> dict[str, str]:
    return {
        "io.kubernetes.pod.name": start.pod.name,
        "io.kubernetes.pod.namespace": start.pod.namespace,
        "io.kubernetes.pod.uid": start.pod_uid,
    }
