# SPDX-License-Identifier: Apache-2.0
"""Starts, restarts and ends the containers of admitted pods, with their devices. Admits nobody.

PreStartContainer comes before every start, Allocate does not: the first answer stays.
"""

from __future__ import annotations

import time

from agents.errors import AgentError, Unavailable
from agents.standin.container_plan import new_container_id
from agents.standin.kubelet import answers
from agents.standin.kubelet.admission import Admission, NotAllocated
from agents.standin.kubelet.behaviour import Behaviour
from agents.standin.kubelet.endpoint import PluginError
from agents.standin.kubelet.events import EventKind, EventLog
from agents.standin.kubelet.plugins import Plugins
from agents.standin.kubelet.pods import ContainerRecord, ContainerStateName, PodRecord
from agents.standin.kubelet.state import DeviceState
from agents.standin.kubelet.termination_logs import TerminationLogs
from agents.standin.pods import ContainerStart, RunningContainer, Runtime

#: Longer than any bounded call that a worker makes: PreStartContainer 30 s, a runtime call 10 s.
SYNC_WAIT_S = 45.0
_LONGEST_PAUSE_S = 300.0


class PodWorkers:
    """What is done to the containers of a pod; by one thread per pod at a time
    (`PodRecord.sync`)."""

    def __init__(
        self,
        state: DeviceState,
        plugins: Plugins,
        admission: Admission,
        runtime: Runtime,
        behaviour: Behaviour,
        events: EventLog,
        logs: TerminationLogs,
    ) -> None:
        self._state = state
        self._logs = logs
        self._plugins = plugins
        self._admission = admission
        self._runtime = runtime
        self._behaviour = behaviour
        self._events = events

    def start_due(self, pod: PodRecord) -> None:
        """Start every container whose time has come. With `pod.sync` held."""
        for container in pod.turn:
            due = container.due
            if due is not None and due <= time.monotonic() and not (pod.deleting or pod.ended):
                self._start(pod, container)

    def restart(self, pod: PodRecord, name: str) -> None:
        """End one container and start it anew. Raises AgentError when it cannot be."""
        with _held(pod):
            container = pod.containers.get(name)
            if container is None:
                raise AgentError(f"pod {pod.spec.key!r} has no container {name!r}")
            if pod.ended or pod.deleting:
                raise AgentError(f"pod {pod.spec.key!r} has ended")
            with self._state.changed:
                # First, so that its end is not taken for the end of the pod.
                container.wait("ContainerCreating", "", 0.0)
            if container.id is not None:
                self._runtime.stop(container.id)
            self._start(pod, container)

    def end(self, pod: PodRecord, grace_s: float) -> None:
        """End all containers and take them away. The devices stay taken until this has returned."""
        with _held(pod):
            for container in pod.containers.values():
                if container.id is not None:
                    self._runtime.stop(container.id, grace_s=grace_s)
                    self._runtime.remove(container.id)
            self._logs.remove(pod.uid)

    def ended(self, pod: PodRecord, ended: RunningContainer) -> None:
        """A container was seen to have ended by itself, or by somebody's signal."""
        container = pod.containers[ended.start.spec.name]
        code = ended.exit_code
        with self._state.changed:
            running = container.state is ContainerStateName.RUNNING
            if code is None or container.id != ended.start.id or not running or pod.deleting:
                return
            container.ended(code)
            container.last_words = self._logs.read(ended.start)
            if pod.restarts_after(code) and not container.done:
                pause = self._pause(container.restarts)
                text = f"back-off {pause:g}s restarting failed container={container.spec.name}"
                container.wait("CrashLoopBackOff", text, time.monotonic() + pause)
                container.exit_code = code
            pod.update_phase()
            if pod.ended:
                self._state.free_pod(pod.uid)
            self._state.changed.notify_all()

    def _pause(self, restarts: int) -> float:
        if restarts == 0:
            return 0.0
        return float(min(self._behaviour.restart_pause_s * 2 ** (restarts - 1), _LONGEST_PAUSE_S))

    def _start(self, pod: PodRecord, container: ContainerRecord) -> None:
        try:
            if self._behaviour.late_allocate:
                self._admission.allocate(pod.uid, container.spec)
            self._pre_start(pod.uid, container)
        except (NotAllocated, PluginError) as error:
            self._wait(container, "CreateContainerConfigError", error.message)
            return
        start = self._container_start(pod, container)
        try:
            if container.id is not None:
                self._runtime.remove(container.id)
                container.id = None
            running = self._runtime.start(start)
        except AgentError as error:
            self._wait(container, "CreateContainerError", str(error))
            return
        with self._state.changed:
            container.running(running)
            pod.update_phase()
            self._state.changed.notify_all()

    def _wait(self, container: ContainerRecord, reason: str, message: str) -> None:
        with self._state.changed:
            container.wait(reason, message, time.monotonic() + self._behaviour.retry_s)
            self._state.changed.notify_all()

    def _pre_start(self, pod_uid: str, container: ContainerRecord) -> None:
        with self._state.changed:
            allocations = self._state.allocations.of_container(pod_uid, container.spec.name)
        for allocation in allocations:
            endpoint = self._plugins.endpoint(allocation.resource)
            if endpoint is not None and endpoint.options.pre_start_required:
                try:
                    endpoint.pre_start(sorted(allocation.ids))
                except PluginError as error:
                    self._events.add(EventKind.CALL_FAILED, allocation.resource, error.message)
                    raise

    def _container_start(self, pod: PodRecord, container: ContainerRecord) -> ContainerStart:
        with self._state.changed:
            allocations = self._state.allocations.of_container(pod.uid, container.spec.name)
        edits = answers.merged(allocations)
        for resource, text in edits.ignored:
            self._events.add(EventKind.ANSWER_IGNORED, resource, text)
        return ContainerStart(
            new_container_id(),
            pod.spec,
            pod.uid,
            container.spec,
            edits.env,
            (*edits.volumes.values(), self._logs.make(pod.uid, container.spec.name)),
            tuple(edits.devices.values()),
        )


class _held:
    """`pod.sync`, waited for no longer than any bounded call can hold it."""

    def __init__(self, pod: PodRecord) -> None:
        self._pod = pod

    def __enter__(self) -> None:
        if not self._pod.sync.acquire(timeout=SYNC_WAIT_S):
            raise Unavailable(
                f"pod {self._pod.spec.key!r} is still being admitted or started",
                remedy="look at the events: a plugin may let a call wait",
            )

    def __exit__(self, *_: object) -> None:
        self._pod.sync.release()
