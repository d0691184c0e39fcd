# SPDX-License-Identifier: Apache-2.0
"""The embedded kubelet: real gRPC on real sockets, with all that a plugin can observe.

Not reproduced: memory and timing of the real one, sidecars, other admission checks, and pods with a
resource that no plugin ever registered, which a real kubelet starts without devices and
which are rejected here.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

from agents.errors import AgentError
from agents.standin.cri_server import Sandbox
from agents.standin.kubelet.admission import REASON, NotAllocated
from agents.standin.kubelet.behaviour import Behaviour
from agents.standin.kubelet.events import EventLog
from agents.standin.kubelet.housekeeping import Housekeeping
from agents.standin.kubelet.node import NodeStatus, unschedulable
from agents.standin.kubelet.pods import PodRecord, PodStatus
from agents.standin.kubelet.session import Session, discard_aside
from agents.standin.kubelet.state import ResourceState
from agents.standin.pods import PodSpec, Runtime

#: How often `wait_for` looks even if nothing was notified.
_LOOK_S = 0.05


class EmbeddedKubelet:
    """A kubelet, and as much of an API server and scheduler as one node needs.

    `admit` is for a pod that is bound to this node already, `create` waits until it fits.
    Thread-safe; the calls block as long as plugins let them, so use a worker thread. Pods outlive
    `stop`, as they do on a node.
    """

    def __init__(
        self,
        kubelet_dir: Path,
        runtime: Runtime,
        *,
        behaviour: Behaviour | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.behaviour = behaviour or Behaviour()
        self._kubelet_dir = kubelet_dir
        self._runtime = runtime
        self._rng = rng or random.Random()  # noqa: S311 -- stands for the order of a set, no secret
        self._changed = threading.Condition()
        self.events = EventLog(self._changed)
        self._pods: dict[str, PodRecord] = {}
        # One admission at a time, and it waits for the plugin without limit: the kubelet's pod
        # loop.
        self._pod_loop = threading.Lock()
        self._session: Session | None = None
        self._housekeeping: Housekeeping | None = None

    # -- the kubelet itself

    def start(self) -> None:
        """Clear the plugins' sockets, read the checkpoint, find the containers again, serve.

        Raises AgentError when a socket cannot be made.
        """
        if self.running:
            raise AgentError("the kubelet runs already")
        session = Session(
            self._kubelet_dir,
            self._runtime,
            self.behaviour,
            changed=self._changed,
            events=self.events,
            pods=self._active,
            rng=self._rng,
        )
        try:
            self._adopt()
        except BaseException:
            session.stop()
            raise
        self._session = session
        session.serve()
        self._housekeeping = Housekeeping(
            session,
            self._runtime,
            self.behaviour,
            self.events,
            pods=self._all,
            bind=self._bind,
            work=self._admit_and_start,
        )
        self._housekeeping.start()

    def stop(self) -> None:
        """Bounded; may be called twice. Containers run on; whoever waits in `admit` returns."""
        if self._session is not None and not self._session.stopping.is_set():
            self._session.stop()
        if self._housekeeping is not None:
            self._housekeeping.stop()
            self._housekeeping = None
        discard_aside(self._kubelet_dir)

    def restart(self, *, behaviour: Behaviour | None = None) -> None:
        """As a restarted kubelet process, with another behaviour if one is given."""
        self.stop()
        self.behaviour = behaviour or self.behaviour
        self.start()

    def reboot(self, *, behaviour: Behaviour | None = None) -> None:
        """As a kubelet on a restarted node: no container is left, and every pod that had not ended
        is admitted again, with the devices that the checkpoint holds for it.
        """
        self.stop()
        self.behaviour = behaviour or self.behaviour
        for running in self._runtime.containers():
            self._runtime.remove(running.start.id)
        with self._changed:
            for record in self._pods.values():
                record.forget_containers(time.monotonic() + self.behaviour.readmit_delay_s)
        self.start()

    @property
    def running(self) -> bool:
        return self._session is not None and not self._session.stopping.is_set()

    # -- what it shows

    def resources(self) -> dict[str, ResourceState]:
        """What the kubelet knows now, by resource name."""
        return self._started.state.resources()

    def node(self) -> NodeStatus:
        """What the node object says, which can be `node_status_period_s` old."""
        return self._started.node.status()

    def pods(self) -> tuple[PodStatus, ...]:
        """All pods, ended ones too, until they are deleted."""
        with self._changed:
            return tuple(self._status(record) for record in self._pods.values())

    def pod(self, key: str) -> PodStatus:
        """By `namespace/name`. Raises AgentError when there is none."""
        with self._changed:
            return self._status(self._record(key))

    def sandboxes(self) -> tuple[Sandbox, ...]:
        """The pods that a runtime would have a sandbox for: all that were admitted."""
        with self._changed:
            return tuple(
                Sandbox(record.spec, record.uid, ready=not record.ended)
                for record in self._pods.values()
                if record.admitted
            )

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Block until the condition holds; whether it did in time. It may look at anything."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            with self._changed:
                self._changed.wait(min(left, _LOOK_S))
        return True

    # -- pods

    def admit(self, spec: PodSpec) -> PodStatus:
        """A pod bound to this node: devices, then containers. Its status after one attempt.

        Raises AgentError when a pod of this name exists; a rejection is a status.
        """
        record = self._added(PodRecord(spec))
        self._admit_and_start(record)
        return self._shown(record)

    def create(self, spec: PodSpec) -> PodStatus:
        """A pod as a user makes it: Pending until the node object says that it fits."""
        record = self._added(PodRecord(spec, bound=False))
        if self._bind(record):
            self._admit_and_start(record)
        return self._shown(record)

    def delete(self, key: str, grace_s: float = 0.0) -> None:
        """End its containers and forget it. Its devices are free when this returns, not before."""
        with self._changed:
            record = self._record(key)
            record.deleting = True
        self._started.workers.end(record, grace_s)
        with self._changed:
            self._started.state.free_pod(record.uid)
            self._pods.pop(key, None)
            self._changed.notify_all()

    def restart_container(self, key: str, name: str) -> PodStatus:
        """End one container of a pod and start it anew, with the devices that it has."""
        with self._changed:
            record = self._record(key)
        self._started.workers.restart(record, name)
        return self._shown(record)

    # -- inside

    @property
    def _started(self) -> Session:
        if self._session is None:
            raise AgentError("the kubelet was never started")
        return self._session

    def _record(self, key: str) -> PodRecord:
        if key not in self._pods:
            raise AgentError(f'pods "{key}" not found')
        return self._pods[key]

    def _added(self, record: PodRecord) -> PodRecord:
        if not self.running:
            raise AgentError("the kubelet does not run")
        with self._changed:
            if record.spec.key in self._pods:
                raise AgentError(
                    f'pods "{record.spec.key}" already exists', remedy="delete it first"
                )
            self._pods[record.spec.key] = record
        return record

    def _all(self) -> list[PodRecord]:
        with self._changed:
            return list(self._pods.values())

    def _active(self) -> list[PodRecord]:
        """Those that hold or may hold devices; with the lock held."""
        return [pod for pod in self._pods.values() if pod.bound and not pod.ended]

    def _bind(self, record: PodRecord) -> bool:
        """The scheduler's part; whether it was this call that bound the pod."""
        with self._changed:
            if record.bound or record.deleting:
                return False
            lacking = self._started.node.lacking(record.spec, self._active())
            if not lacking:
                record.bound, record.reason, record.message = True, "", ""
                return True
            record.reason, record.message = "Unschedulable", unschedulable(lacking)
            return False

    def _admit_and_start(self, record: PodRecord) -> None:
        with record.sync:
            with self._pod_loop:
                self._admit(record)
            if record.admitted:
                self._started.workers.start_due(record)

    def _admit(self, record: PodRecord) -> None:
        session = self._started
        if record.admitted or record.ended or record.deleting or session.stopping.is_set():
            return
        with self._changed:
            session.state.keep_pods([pod.uid for pod in self._pods.values()])
        try:
            if not self.behaviour.late_allocate:
                session.admission.admit(record.uid, record.spec)
        except NotAllocated as error:
            # A call that ended because the kubelet stops is no answer: it is asked again after the
            # start.
            if not session.stopping.is_set():
                with self._changed:
                    record.fail(REASON, error.rejection)
                    self._changed.notify_all()
        else:
            with self._changed:
                record.admitted = True

    def _adopt(self) -> None:
        """Containers of a kubelet that ran here before: their pods go on."""
        for running in sorted(self._runtime.containers(), key=lambda one: one.created_at_ns):
            start = running.start
            with self._changed:
                record = self._pods.setdefault(
                    start.pod.key, PodRecord(start.pod, uid=start.pod_uid, admitted=True)
                )
                known = record.containers.get(start.spec.name)
                if record.uid == start.pod_uid and known is not None and known.id is None:
                    known.running(running)
                    record.update_phase()

    def _shown(self, record: PodRecord) -> PodStatus:
        with self._changed:
            return self._status(record)

    def _status(self, record: PodRecord) -> PodStatus:
        return record.status(self._started.state.allocations)
