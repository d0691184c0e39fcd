# SPDX-License-Identifier: Apache-2.0
"""A pod on this node: what its status shows, and the record behind it. Calls nobody."""

from __future__ import annotations

import enum
import threading
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agents.standin.kubelet.allocations import Allocation, Allocations
from agents.standin.pods import ContainerSpec, PodPhase, PodSpec, RestartPolicy, RunningContainer


class ContainerStateName(enum.Enum):
    """Kubernetes' three states of a container."""

    WAITING = "Waiting"
    RUNNING = "Running"
    TERMINATED = "Terminated"


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    """One container now. `devices` is what it holds: resource name to sorted ids; `last_words`
    what its last run left as termination message.
    """

    name: str
    state: ContainerStateName
    reason: str
    message: str
    id: str | None
    pid: int | None
    exit_code: int | None
    restarts: int
    devices: Mapping[str, tuple[str, ...]]
    last_words: str = ""


@dataclass(frozen=True, slots=True)
class PodStatus:
    """One pod now. `reason` and `message` say why it failed or waits, in Kubernetes' words."""

    spec: PodSpec
    uid: str
    phase: PodPhase
    reason: str
    message: str
    containers: tuple[ContainerStatus, ...]

    @property
    def key(self) -> str:
        return self.spec.key

    def container(self, name: str) -> ContainerStatus:
        return next(status for status in self.containers if status.name == name)


@dataclass(slots=True)
class ContainerRecord:
    """`due` is when it may next be started (monotonic seconds); None: not at all. `init`: it must
    have ended well before others may start.
    """

    spec: ContainerSpec
    init: bool = False
    state: ContainerStateName = ContainerStateName.WAITING
    reason: str = "ContainerCreating"
    message: str = ""
    id: str | None = None
    pid: int | None = None
    exit_code: int | None = None
    starts: int = 0
    due: float | None = 0.0
    last_words: str = ""

    @property
    def done(self) -> bool:
        """An init container that ended well, and is never started again."""
        return self.init and self.state is ContainerStateName.TERMINATED and self.exit_code == 0

    @property
    def restarts(self) -> int:
        return max(self.starts - 1, 0)

    def running(self, container: RunningContainer) -> None:
        self.starts += 1
        self.state, self.reason, self.message = ContainerStateName.RUNNING, "", ""
        self.id, self.pid = container.start.id, container.pid
        self.exit_code, self.due = None, None

    def wait(self, reason: str, message: str, due: float) -> None:
        self.state, self.reason, self.message, self.due = (
            ContainerStateName.WAITING,
            reason,
            message,
            due,
        )

    def status(self, allocations: Iterable[Allocation]) -> ContainerStatus:
        """As it is shown, with what it holds."""
        return ContainerStatus(
            self.spec.name,
            self.state,
            self.reason,
            self.message,
            self.id,
            self.pid,
            self.exit_code,
            self.restarts,
            {one.resource: tuple(sorted(one.ids)) for one in allocations},
            self.last_words,
        )

    def ended(self, exit_code: int) -> None:
        self.state = ContainerStateName.TERMINATED
        self.reason, self.message = "Completed" if exit_code == 0 else "Error", ""
        self.exit_code, self.pid, self.due = exit_code, None, None


@dataclass(slots=True)
class PodRecord:
    """`sync` is held by whoever starts or ends its containers. `admitted`: it has its devices.

    `bound`: the scheduler gave it to this node. Nothing is done to it before `not_before`.
    """

    spec: PodSpec
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    phase: PodPhase = PodPhase.PENDING
    reason: str = ""
    message: str = ""
    bound: bool = True
    admitted: bool = False
    deleting: bool = False
    not_before: float = 0.0
    sync: threading.Lock = field(default_factory=threading.Lock)
    containers: dict[str, ContainerRecord] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for spec in self.spec.init_containers:
            self.containers.setdefault(spec.name, ContainerRecord(spec, init=True))
        for spec in self.spec.containers:
            self.containers.setdefault(spec.name, ContainerRecord(spec))

    @property
    def turn(self) -> list[ContainerRecord]:
        """The containers that may run now: the first init container that has not ended well, or
        all others.
        """
        init = [one for one in self.containers.values() if one.init and not one.done]
        return init[:1] or [one for one in self.containers.values() if not one.init]

    def forget_containers(self, not_before: float) -> None:
        """As after a restart of the node: nothing of it runs, and it has to be admitted again."""
        if self.ended:
            return
        self.phase, self.admitted, self.not_before = PodPhase.PENDING, False, not_before
        for name, container in self.containers.items():
            self.containers[name] = ContainerRecord(
                container.spec, init=container.init, starts=container.starts
            )

    @property
    def ended(self) -> bool:
        return self.phase in (PodPhase.SUCCEEDED, PodPhase.FAILED)

    def fail(self, reason: str, message: str) -> None:
        self.phase, self.reason, self.message = PodPhase.FAILED, reason, message
        for container in self.containers.values():
            container.due = None

    def restarts_after(self, exit_code: int) -> bool:
        policy = self.spec.restart_policy
        return policy is RestartPolicy.ALWAYS or (
            policy is RestartPolicy.ON_FAILURE and exit_code != 0
        )

    def update_phase(self) -> None:
        """From the containers' states."""
        if self.ended:
            return
        turn = self.turn
        if turn[0].init and turn[0].exit_code and turn[0].due is None:
            self.fail("Init:Error", f"init container {turn[0].spec.name} failed")
            return
        main = [container for container in self.containers.values() if not container.init]
        states = [container.state for container in main]
        codes = [container.exit_code for container in main]
        if states and all(state is ContainerStateName.TERMINATED for state in states):
            self.phase = PodPhase.FAILED if any(codes) else PodPhase.SUCCEEDED
        elif any(container.id for container in main):
            self.phase = PodPhase.RUNNING

    def status(self, allocations: Allocations) -> PodStatus:
        """As it is shown."""
        return PodStatus(
            self.spec,
            self.uid,
            self.phase,
            self.reason,
            self.message,
            tuple(
                container.status(allocations.of_container(self.uid, name))
                for name, container in self.containers.items()
            ),
        )
