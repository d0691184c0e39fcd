# SPDX-License-Identifier: Apache-2.0
"""Commands that are kept running: restarted, given up, stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from agents.hostfs import PROC
from agents.processes import identify
from agents.supervise import ChildState, Supervisor, end_orphans, shorten

pytestmark = [pytest.mark.processes, pytest.mark.loud]
Condition = Callable[[ChildState], bool]


async def supervised(
    tmp_path: Path, script: str, until: Condition, then: Callable[[ChildState], Awaitable[None]]
) -> ChildState:
    """Run one shell script under supervision until its state fulfils `until`."""
    supervisor = Supervisor({"demo": ["sh", "-c", script]}, tmp_path, {"PATH": os.defpath})
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.run)
            while not until(supervisor.states["demo"]):
                await trio.sleep(0.01)
            state = supervisor.states["demo"]
            await then(state)
            nursery.cancel_scope.cancel()
    return state


async def nothing(_: ChildState) -> None: ...


async def test_a_child_that_dies_is_started_again(tmp_path: Path) -> None:
    script = "echo once; exit 1"
    state = await supervised(tmp_path, script, lambda s: s.restarts >= 2, nothing)
    assert state.last_exit == 1
    assert (tmp_path / "demo.log").read_text().count("once") >= 2


async def test_a_wrong_configuration_is_not_tried_again(tmp_path: Path) -> None:
    state = await supervised(tmp_path, "echo why; exit 2", lambda s: s.given_up, nothing)
    assert (state.pid, state.last_exit, state.restarts) == (None, 2, 0)
    assert (tmp_path / "demo.log").read_text() == "why\n"


async def test_stopping_asks_first(tmp_path: Path) -> None:
    marker = tmp_path / "asked"
    script = f"trap 'touch {marker}; exit 0' TERM; echo up; while :; do sleep 0.05; done"

    async def wait_for_trap(_: ChildState) -> None:
        while "up" not in (tmp_path / "demo.log").read_text():
            await trio.sleep(0.01)

    state = await supervised(tmp_path, script, lambda s: s.pid is not None, wait_for_trap)
    assert marker.exists()
    assert state.pid is not None
    assert identify(Path("/proc"), state.pid) is None


async def test_what_cannot_be_started_is_tried_again_and_told(tmp_path: Path) -> None:
    supervisor = Supervisor({"demo": ["/nonexistent/program"]}, tmp_path, {})
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.run)
            while supervisor.states["demo"].restarts < 2:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert "No such file" in supervisor.states["demo"].describe_end()


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (ChildState(pid=7), ""),
        (ChildState(restarts=1, last_exit=-9), "killed by SIGKILL, started again once"),
        (ChildState(restarts=3, last_exit=1), "ended with code 1, started again 3 times"),
        (ChildState(last_exit=2, given_up=True), "ended with code 2, not started again"),
        (ChildState(restarts=1, problem="no"), "cannot be started: no, started again once"),
    ],
)
def test_an_end_is_told_in_words(state: ChildState, text: str) -> None:
    assert state.describe_end() == text


def test_a_long_log_is_cut_under_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "demo.log"
    with path.open("ab", buffering=0) as writer:
        for number in range(1000):
            writer.write(b"line %d\n" % number)
        shorten(path, longest=20_000, kept=100)
        assert path.stat().st_size > 5000, "not yet too long"
        shorten(path, longest=5000, kept=100)
        writer.write(b"the next one\n")
    kept = path.read_text().splitlines()
    assert kept[-2:] == ["line 999", "the next one"]
    assert kept[0].startswith("line ")
    assert path.stat().st_size < 200


async def test_orphans_are_known_by_command_line_and_mark(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", f"import time; time.sleep(60)  # {tmp_path}"]
    mark = ("NODESHARE_TEST_MARK", str(tmp_path))
    plain = {"PATH": os.defpath}
    marked = {**plain, mark[0]: mark[1]}
    orphan, unmarked, other = (
        subprocess.Popen(argv, env=marked),
        subprocess.Popen(argv, env=plain),
        subprocess.Popen([*argv, "more"], env=marked),
    )
    try:
        assert await end_orphans([argv], mark, PROC)
        assert orphan.wait(5) == -9
        assert (unmarked.poll(), other.poll()) == (None, None)
    finally:
        for process in (orphan, unmarked, other):
            process.kill()
            process.wait(5)
