# SPDX-License-Identifier: Apache-2.0
"""When the agent has each rule run, and what becomes of a child that fails or hangs. Children are
small programs in the place of the command; what they say is what the command says.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from agents import command
from agents.logs import get_logger
from agents.mounts import LinuxMounts
from fuse_mounter.scratch import keeper
from fuse_mounter.scratch.config import ScratchRule
from fuse_mounter.scratch.keeper import Keeper, ScratchStatus
from fuse_mounter.scratch.outcome import Outcome
from tests.fakes.hanging_mount import HangingMounts

WAIT_S = 20.0


def rule(**keys: object) -> ScratchRule:
    return ScratchRule.model_validate({"directory": "/srv/scratch", "older_than": "30d", **keys})


def told(**values: Any) -> str:
    outcome = {"ran": True, "last_run": time.time(), "armed": True, **values}
    return json.dumps({**Outcome(armed=True).document(), **outcome})


@dataclass
class Site:
    """`program` is what a child does; each start leaves a line with its arguments in `log`."""

    log: Path
    program: str = ""
    usable: bool = True
    changes: int = 0
    rules: list[ScratchRule] = field(default_factory=lambda: [rule()])
    keeper: Keeper = field(init=False)

    def says(self, *lines: str, then: str = "") -> None:
        start = (
            f"import os, sys, time\nwith open({str(self.log)!r}, 'a') as log:\n"
            "    log.write(f'{os.getpid()} {sys.argv[1:]}\\n')\n"
        )
        said = "".join(f"print({line!r}, flush=True)\n" for line in lines)
        self.program = f"{start}{said}{then}\n"
        command_of = (sys.executable, "-c", self.program)
        command.NODESHARE = command_of

    def starts(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def status(self) -> ScratchStatus:
        return self.keeper.statuses[0]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Keeper]:
        def changed() -> None:
            self.changes += 1

        self.keeper = Keeper(
            Path("/etc/config.yaml"), self.rules, get_logger(), lambda _: self.usable, changed
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.keeper.run)
            yield self.keeper
            nursery.cancel_scope.cancel()

    async def until(self, holds: Callable[[], bool]) -> None:
        with trio.fail_after(WAIT_S):
            while not holds():
                await trio.sleep(0.01)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(command, "NODESHARE", command.NODESHARE)
    monkeypatch.setattr(keeper, "_FIRST_S", (0.0, 0.0))
    monkeypatch.setattr(keeper, "_AGAIN_S", 0.05)
    return Site(tmp_path / "log")


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


async def test_a_run_is_made_and_the_next_one_is_said(site: Site) -> None:
    site.says(
        told(last_run=None, scanned=1),
        told(scanned=7, removed=3, removed_bytes=30, problems=["'ada' could not be told: no"]),
    )
    async with site.running():
        await site.until(lambda: site.status().runs["done"] == 1)
        await site.until(lambda: not site.status().running)
        status = site.status()
    assert (status.removed, status.removed_bytes) == (3, 30)
    assert status.outcome is not None
    assert status.outcome["scanned"] == 7
    assert status.problem == "'ada' could not be told: no"
    assert status.next_run is not None
    assert status.next_run == pytest.approx(time.time() + 86400, abs=60)
    assert len(site.starts()) == 1
    words = "'scratch', 'run', '/srv/scratch', '--lines', '--if-due', '--config'"
    assert words in site.starts()[0]
    assert site.changes > 2
    assert status.to_json()["name"] == "/srv/scratch"


async def test_another_node_was_quicker(site: Site) -> None:
    """It runs again when that one's run is old enough, and nothing is counted."""
    hour_ago = time.time() - 3600
    site.says(told(ran=False, last_run=hour_ago, removed=0))
    async with site.running():
        await site.until(lambda: site.status().last_run is not None)
        await site.until(lambda: (site.status().next_run or 0) > time.time() + 3600)
        status = site.status()
    assert status.next_run == pytest.approx(hour_ago + 86400, abs=60)
    assert (status.outcome, status.runs["done"], status.problem) == (None, 0, None)


async def test_what_fails_says_why_and_is_tried_again(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.says("nodeshare: the mount 'scratch' is not there; see `nodeshare mounts ls`")
    async with site.running():
        await site.until(lambda: site.status().runs["failed"] >= 2)
        assert (
            site.status().problem == "the mount 'scratch' is not there; see `nodeshare mounts ls`"
        )
    assert "scratch not cleaned" in caplog.text
    caplog.clear()


@pytest.mark.parametrize("said", ["", "not json", "[1]", '{"other": 1}'])
async def test_a_child_that_dies_without_its_numbers(
    site: Site, caplog: pytest.LogCaptureFixture, said: str
) -> None:
    site.says(said, told(last_run=None, removed=2, removed_bytes=5), then="os.kill(os.getpid(), 9)")
    async with site.running():
        await site.until(lambda: site.status().runs["failed"] == 1)
        status = site.status()
    assert status.problem
    assert (status.removed, status.removed_bytes) == (2, 5)  # gone they are all the same
    assert status.outcome is None
    caplog.clear()


async def test_a_child_that_hangs_is_ended(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeper, "_SILENT_S", 0.5)
    monkeypatch.setattr(keeper, "_AGAIN_S", 60.0)
    site.says(told(last_run=None), then="time.sleep(1000)")
    async with site.running():
        await site.until(lambda: site.status().runs["failed"] == 1)
        status = site.status()
        (pid,) = (int(line.split()[0]) for line in site.starts())
        assert is_gone(pid)
    assert status.problem == "nothing moved for 0.5 s: the file system hangs"
    assert not status.running
    caplog.clear()


async def test_nothing_is_started_while_an_earlier_one_hangs_in_the_kernel(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeper, "_SILENT_S", 0.3)
    children: list[command.Child] = []
    end = command.end

    def not_ended(child: command.Child) -> bool:
        children.append(child)
        return False

    monkeypatch.setattr(command, "end", not_ended)
    site.says(then="time.sleep(1000)")
    try:
        async with site.running():
            await site.until(lambda: "hangs in the kernel" in (site.status().problem or ""))
            await trio.sleep(0.3)
            assert len(site.starts()) == 1
            assert end(children[0])
            await site.until(lambda: len(site.starts()) == 2)
    finally:
        for child in children:
            end(child)
    caplog.clear()


async def test_a_mount_that_is_not_usable_is_left_alone(site: Site) -> None:
    site.rules, site.usable = [rule(directory=None, mount="scratch")], False
    site.says(told())
    async with site.running():
        await site.until(lambda: site.status().problem is not None)
        assert site.status().problem == "mount 'scratch' is not usable now"
        assert site.starts() == []
        site.usable = True
        await site.until(lambda: site.status().runs["done"] == 1)
        await site.until(lambda: site.status().problem is None)


async def test_changed_rules_end_what_runs_by_the_old_ones(site: Site) -> None:
    site.says(told(last_run=None), then="time.sleep(1000)")
    async with site.running() as running:
        await site.until(lambda: len(site.starts()) == 1)
        pid = int(site.starts()[0].split()[0])
        running.apply([rule()])  # the same: nothing happens
        await trio.sleep(0.1)
        assert not is_gone(pid)
        site.says(told())
        running.apply([rule(armed=True, directory="/srv/other")])
        await site.until(lambda: site.status().runs["done"] == 1)
        assert is_gone(pid)
        assert site.status().name == "/srv/other"
        assert site.status().armed
        running.apply([])
        await trio.sleep(0.05)
        assert running.statuses == ()


async def test_whoever_is_cancelled_leaves_no_child(site: Site) -> None:
    site.says(told(last_run=None), then="time.sleep(1000)")
    async with site.running():
        await site.until(lambda: len(site.starts()) == 1)
        pid = int(site.starts()[0].split()[0])
    assert is_gone(pid)


async def test_one_rule_that_hangs_holds_up_no_other(site: Site) -> None:
    site.rules = [rule(), rule(directory="/srv/other")]
    site.says(then=f"if 'other' not in str(sys.argv): time.sleep(1000)\nprint({told()!r})")
    async with site.running() as running:
        await site.until(lambda: running.statuses[1].runs["done"] == 1)
        assert running.statuses[0].running


async def test_a_file_system_that_hangs_is_waited_for_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The real command on a FUSE mount whose server does not answer: another rule goes on, and no
    second child is lost in there.
    """
    monkeypatch.setattr(keeper, "_FIRST_S", (0.0, 0.0))
    monkeypatch.setattr(keeper, "_AGAIN_S", 0.2)
    monkeypatch.setattr(keeper, "_SILENT_S", 6.0)
    hangs, works = tmp_path / "hangs", tmp_path / "works"
    for folder in (hangs, works / "ada"):
        folder.mkdir(parents=True)
    (works / "ada/file").touch()
    rules = [rule(directory=str(hangs)), rule(directory=str(works))]
    config = tmp_path / "config.yaml"
    rows = [{"directory": str(one.directory), "older_than": "30d"} for one in rules]
    config.write_text(json.dumps({"fuse_mounter": {"scratch": rows}}))
    one = Keeper(config, rules, get_logger(), lambda _: True, lambda: None)
    with HangingMounts(os.getpid(), str(hangs)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.run)
            with trio.fail_after(60):
                while one.statuses[1].runs["done"] == 0 or one.statuses[0].runs["failed"] == 0:
                    await trio.sleep(0.05)
            assert one.statuses[1].outcome is not None
            assert one.statuses[1].outcome["scanned"] == 1
            problem = one.statuses[0].problem or ""
            assert "the file system hangs" in problem or "hangs in the kernel" in problem
            nursery.cancel_scope.cancel()
        # Before the server's end lets whoever waits there go on.
        LinuxMounts().unmount(hangs, detach=True)
    with trio.fail_after(20):
        while command.reap_abandoned():
            await trio.sleep(0.05)
    caplog.clear()
