# SPDX-License-Identifier: Apache-2.0
"""A `Runtime` without processes: containers are entries in a table, and end when a test says so."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace

from agents.errors import AgentError
from agents.standin.pods import ContainerStart, RunningContainer


class FakeRuntime:
    """Thread-safe. `refuse` makes the next starts fail; `calls` is what was asked."""

    def __init__(self) -> None:
        self.refuse: str | None = None
        self.calls: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self._pids = itertools.count(100_000)
        self._containers: dict[str, RunningContainer] = {}

    def start(self, start: ContainerStart) -> RunningContainer:
        with self._lock:
            self.calls.append(("start", start.spec.name))
            if self.refuse is not None:
                raise AgentError(self.refuse)
            container = RunningContainer(
                start,
                next(self._pids),
                f"/kubepods/besteffort/pod{start.pod_uid}/{start.id}",
                time.time_ns(),
            )
            self._containers[start.id] = container
            return container

    def containers(self) -> tuple[RunningContainer, ...]:
        with self._lock:
            return tuple(self._containers.values())

    def stop(self, container_id: str, *, grace_s: float = 0.0) -> None:
        with self._lock:
            self.calls.append(("stop", self._containers[container_id].start.spec.name))
        self.exit(container_id, 143 if grace_s else 137)

    def remove(self, container_id: str) -> None:
        with self._lock:
            container = self._containers.pop(container_id)
            self.calls.append(("remove", container.start.spec.name))

    def close(self) -> None:
        with self._lock:
            self._containers.clear()

    def exit(self, container_id: str, code: int) -> None:
        """The container's first process ends, unless it has already."""
        with self._lock:
            container = self._containers[container_id]
            if container.exit_code is None:
                self._containers[container_id] = replace(container, exit_code=code)
