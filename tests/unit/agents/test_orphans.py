# SPDX-License-Identifier: Apache-2.0
"""Children that are nobody's are reaped, and no other."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import command, orphans
from agents.hostfs import PROC

pytestmark = pytest.mark.processes


@pytest.fixture
def nobodys() -> Iterator[int]:
    """A child that ended, and that nobody waits for."""
    pid = os.posix_spawn("/bin/true", ["true"], {})
    until_ended(pid)
    yield pid
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass


def until_ended(pid: int) -> None:
    deadline = time.monotonic() + 20
    while state(pid) != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def state(pid: int) -> str | None:
    """As procfs has it; None: there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return None


def test_reaped_at_the_second_look(nobodys: int) -> None:
    seen = orphans.reap(PROC, frozenset())
    assert nobodys in seen
    assert state(nobodys) == "Z"
    assert nobodys not in orphans.reap(PROC, frozenset({nobodys}))
    assert state(nobodys) is None


def test_whoever_started_it_is_told_how_it_ended(nobodys: int) -> None:
    ours = command.start(["sh", "-c", "exit 7"])
    until_ended(ours.pid)
    assert ours.pid in command.running()
    assert ours.pid not in orphans.reap(PROC, frozenset({ours.pid, nobodys}))
    assert state(nobodys) is None
    assert ours.poll() == 7
    assert ours.pid not in command.running()


def test_one_that_was_reaped_in_between_is_nothing(nobodys: int) -> None:
    os.waitpid(nobodys, 0)
    assert nobodys not in orphans.reap(PROC, frozenset({nobodys}))
