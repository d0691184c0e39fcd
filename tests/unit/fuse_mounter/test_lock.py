# SPDX-License-Identifier: Apache-2.0
"""One agent for one root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from agents.errors import AgentError
from agents.file_lock import FileLock
from fuse_mounter.lock import exclusive

#: Larger than any the kernel gives (PID_MAX_LIMIT).
_NOBODY = 1 << 23


async def test_the_second_is_told_who_has_it_and_gets_it_when_that_one_is_gone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "deep" / "lock"
    async with exclusive(path):
        with pytest.raises(AgentError, match=rf"pid {os.getpid()} looks after.*stop that agent"):
            async with exclusive(path):
                raise AssertionError("held twice")
    async with exclusive(path):
        assert path.read_text() == str(os.getpid())


async def test_what_a_dead_one_was_just_starting_is_waited_for(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path = tmp_path / "lock"
    child = FileLock(path)
    assert child.take()
    path.write_text(str(_NOBODY))
    with pytest.raises(AgentError, match=f"pid {_NOBODY} looks after"):
        async with exclusive(path):
            raise AssertionError("held twice")

    async def begin() -> None:
        await trio.sleep(0.5)
        child.release()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(begin)
        async with exclusive(path):
            assert path.read_text() == str(os.getpid())
