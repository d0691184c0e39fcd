# SPDX-License-Identifier: Apache-2.0
"""One agent for one root: the kernel's lock on a file, gone with its process. Knows no mount."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agents.errors import AgentError
from agents.file_lock import FileLock


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock. Raises AgentError, with the pid of who has it."""
    lock = FileLock(path)
    if not lock.take():
        raise AgentError(
            f"pid {lock.owner() or 'unknown'} looks after these mounts already ({str(path)!r})",
            remedy="stop that agent first",
        )
    try:
        yield
    finally:
        lock.release()
