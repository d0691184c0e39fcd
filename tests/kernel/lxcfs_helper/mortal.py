# SPDX-License-Identifier: Apache-2.0
"""Death at a chosen moment: before or after the n-th effect that the agent has on the system."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agents.mounts import LinuxMounts
from agents.namespaces import NamespaceHelper


def die_at(moment: int, mounts: LinuxMounts, namespaces: NamespaceHelper) -> None:
    """Count two moments for each effect of these two, and for each file that takes its place."""
    left = [moment]

    def passes() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(effect: Callable[..., Any]) -> Callable[..., Any]:
        def around(*arguments: Any, **named: Any) -> Any:
            passes()
            done = effect(*arguments, **named)
            passes()
            return done

        return around

    for name in ("mount", "set_propagation", "clone", "set_attributes"):
        setattr(mounts, name, counted(getattr(mounts, name)))
    for name in ("attach", "attach_all", "replace", "detach"):
        setattr(namespaces, name, counted(getattr(namespaces, name)))
    setattr(Path, "rename", counted(Path.rename))  # noqa: B010  # it is no attribute to assign
