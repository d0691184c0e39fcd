# SPDX-License-Identifier: Apache-2.0
"""Containers to start, and ways to wait for what the kernel does with their processes."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Callable
from typing import Any

from agents.hostfs import PROC
from agents.standin.container_plan import new_container_id
from agents.standin.pods import ContainerSpec, ContainerStart, PodSpec

FOREVER = ("sleep", "1000")


def container(*command: str, **fields: Any) -> ContainerStart:
    """A start of one container in a pod of its own. Fields of `ContainerStart` go there."""
    answers = {name: fields.pop(name) for name in ("env", "devices") if name in fields}
    spec = ContainerSpec("main", command or FOREVER, **fields)
    pod = PodSpec("notebook-1", [spec])
    return ContainerStart(new_container_id(), pod, secrets.token_hex(8), spec, **answers)


def eventually(condition: Callable[[], bool], what: str, *, timeout_s: float = 5.0) -> None:
    """Wait until a condition holds, or fail."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not in {timeout_s:g} s: {what}"
        time.sleep(0.01)


def exists(pid: int) -> bool:
    """Whether a process with this pid runs; a zombie does not."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
