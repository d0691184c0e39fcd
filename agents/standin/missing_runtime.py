# SPDX-License-Identifier: Apache-2.0
"""The `Runtime` of a machine that cannot run containers: it says why, for each that is to start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from agents.command import Result
from agents.errors import AgentError
from agents.standin.pods import ContainerStart, RunningContainer


class MissingRuntime:
    """Runs nothing; everything but a start has nothing to do."""

    def __init__(self, reason: AgentError) -> None:
        self._reason = reason

    @property
    def missing_controllers(self) -> frozenset[str]:
        return frozenset()

    def start(self, start: ContainerStart) -> NoReturn:
        reason = self._reason
        raise AgentError(f"unavailable on this machine: {reason.message}", remedy=reason.remedy)

    def containers(self) -> tuple[RunningContainer, ...]:
        return ()

    def exec(self, container_id: str, argv: Sequence[str], *, timeout_s: float) -> Result:
        raise AgentError(f"no container {container_id!r}")

    def stop(self, container_id: str, *, grace_s: float = 0.0) -> None: ...

    def remove(self, container_id: str) -> None: ...

    def close(self) -> None: ...
