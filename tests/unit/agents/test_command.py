# SPDX-License-Identifier: Apache-2.0
"""Child processes: bounded, whatever they do."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
import trio

from agents import command
from agents.processes import identify

pytestmark = pytest.mark.processes


async def test_output_and_code() -> None:
    result = await command.run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout_s=10)
    assert (result.code, result.ok, result.timed_out) == (3, False, False)
    assert sorted(result.output.split()) == ["err", "out"]
    assert result.describe().startswith("'sh' ended with code 3: ")


async def test_child_that_ignores_everything_is_killed() -> None:
    started = time.monotonic()
    result = await command.run(["sh", "-c", "trap '' TERM INT; sleep 60"], timeout_s=0.2)
    assert result.timed_out
    assert result.code == -9
    assert time.monotonic() - started < 5


async def test_what_a_killed_child_has_started_goes_with_it(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {pid_file}; wait"
    assert (await command.run(["sh", "-c", script], timeout_s=0.5)).timed_out
    await until_gone(int(pid_file.read_text()))


async def until_gone(pid: int) -> None:
    with trio.fail_after(5):
        while identify(Path("/proc"), pid) is not None:
            await trio.sleep(0.01)


async def test_cancelled_caller_leaves_no_child(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with trio.move_on_after(1.0):
        await command.run(["sh", "-c", f"echo $$ > {pid_file}; exec sleep 60"], timeout_s=60)
    await until_gone(int(pid_file.read_text()))
    assert command.reap_abandoned() == 0


async def test_endless_output_is_cut() -> None:
    result = await command.run([sys.executable, "-c", "print('x' * 3_000_000)"], timeout_s=20)
    assert result.ok
    assert len(result.output) == 1 << 20


async def test_missing_program_is_an_os_error() -> None:
    with pytest.raises(FileNotFoundError):
        await command.run(["/nonexistent/program"], timeout_s=1)


async def test_environment_is_exactly_what_was_given() -> None:
    result = await command.run(["env"], timeout_s=10, env={"ONLY": "this", "PATH": os.defpath})
    assert sorted(result.output.split()) == [f"PATH={os.defpath}", "ONLY=this"][::-1]
