# SPDX-License-Identifier: Apache-2.0
"""One agent for one root: the kernel's lock on a file, gone with its process. Knows no mount."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from agents import processes
from agents.errors import AgentError
from agents.file_lock import FileLock

#: Whom a killed agent was just starting has its lock until that program begins.
_INHERITED_S = 2.0


@asynccontextmanager
async def exclusive(path: Path) -> AsyncIterator[None]:
    """Hold the lock. Raises AgentError, with the pid of who has it."""
    lock = FileLock(path)
    if not await _taken(lock):
        raise AgentError(
            f"pid {lock.owner() or 'unknown'} looks after these mounts already ({str(path)!r})",
            remedy="stop that agent first",
        )
    try:
        yield
    finally:
        lock.release()


async def _taken(lock: FileLock) -> bool:
    """Waits only for the children of one that is dead."""
    with trio.move_on_after(_INHERITED_S):
        while not lock.take():
            owner = lock.owner()
            if owner.isdigit() and processes.exists(int(owner)):
                return False
            await trio.sleep(0.02)
    return lock.held
