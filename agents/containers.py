# SPDX-License-Identifier: Apache-2.0
"""Who runs on this node: value types and the `Containers` seam. How it is found out is in
`agents.cri`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as the runtime knows it.

    Labels and annotations as they were when its sandbox was made.
    """

    name: str
    namespace: str
    uid: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Container:
    """A running container.

    `pid` is its first process on the host (None: the runtime did not tell).
    """

    id: str
    name: str
    pod: Pod
    pid: int | None
    created_at_ns: int = 0


class Containers(Protocol):
    """The containers that run on this node. Blocking; call it from a worker thread."""

    def list(self) -> tuple[Container, ...]:
        """All running containers. Raises Unavailable when the runtime does not answer in time."""


class Pods(Protocol):
    """The pods of this node. Blocking; call it from a worker thread."""

    def pod(self, sandbox_id: str) -> Pod | None:
        """The one whose sandbox has this id; None: the runtime knows none. Raises Unavailable."""


class ContainerEvents(Protocol):
    """Containers that come and go, told by whoever runs them. Blocking; for a worker thread."""

    def follow(self, changed: Callable[[], None]) -> bool:
        """Call for every event, as long as they are told. False: none are ever told here.

        Raises Unavailable when the runtime is away, or leaves while it is followed.
        """
