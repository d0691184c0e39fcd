# SPDX-License-Identifier: Apache-2.0
"""One agent for one root: the kernel's lock on a file, gone with its process. Knows no mount."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agents.errors import AgentError


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock. Raises AgentError, with the pid of who has it."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            raise AgentError(
                f"pid {holder or 'unknown'} looks after these mounts already ({str(path)!r})",
                remedy="stop that agent first",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)
