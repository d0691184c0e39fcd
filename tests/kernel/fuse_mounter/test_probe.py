# SPDX-License-Identifier: Apache-2.0
"""Probes of real mounts: of one that answers, one that never does, and one that is dead."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import trio

from agents import fuse, hostfs
from agents.mounts import LinuxMounts
from fuse_mounter.observed import Health
from fuse_mounter.probe import Prober

LIMIT_S = 20.0


@dataclass
class Silent:
    """A FUSE mount that nobody serves: who looks at it waits, until the connection is closed."""

    path: Path
    connection: int

    def close(self) -> None:
        if self.connection >= 0:
            os.close(self.connection)
        self.connection = -1


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[Silent]:
    path = tmp_path / "silent"
    path.mkdir()
    device = hostfs.HostFs().fuse_device
    one = Silent(path, fuse.mount(LinuxMounts(), device, path, source="test", subtype="test"))
    yield one
    one.close()
    LinuxMounts().unmount(path, detach=True)


@pytest.fixture
def prober() -> Iterator[Prober]:
    one = Prober(0.2)
    yield one
    one.close()


def asking() -> psutil.Process:
    """The process of the prober, which is our only child of that kind."""
    children = psutil.Process().children()
    (found,) = [child for child in children if "probe_process" in " ".join(child.cmdline())]
    return found


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(LIMIT_S):
        while not condition():
            await trio.sleep(0.01)


async def test_one_child_waits_for_a_mount_that_hangs_and_brings_its_answer_at_last(
    prober: Prober, silent: Silent
) -> None:
    told: list[Health] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            prober.ask, "m@1.1", silent.path, lambda: told.append(prober.health()["m@1.1"])
        )
        await until(lambda: told == [Health.HUNG])
        assert not prober.due("m@1.1", 0.0), "never a second child while one is out"
        assert len(asking().children()) == 1
        silent.close()
    assert told == [Health.HUNG, Health.DEAD]
    assert prober.due("m@1.1", 0.0)
    await until(lambda: not asking().children())


async def test_a_hanging_mount_holds_up_no_other(
    prober: Prober, silent: Silent, tmp_path: Path
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prober.ask, "hung@1.1", silent.path, lambda: None)
        await until(lambda: prober.last("hung@1.1") is not None)
        await prober.ask("good@1.1", tmp_path, lambda: None)
        await prober.ask("gone@1.1", tmp_path / "gone", lambda: None)
        assert prober.health() == {
            "hung@1.1": Health.HUNG,
            "good@1.1": Health.OK,
            "gone@1.1": Health.FAULTY,
        }
        nursery.cancel_scope.cancel()


async def test_a_killed_process_is_replaced_and_says_nothing_about_the_mount(
    prober: Prober, silent: Silent, tmp_path: Path
) -> None:
    """Also while a child of it hangs: what is sent then must reach somebody."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prober.ask, "hung@1.1", silent.path, lambda: None)
        await until(lambda: prober.last("hung@1.1") is not None)
        former = asking()
        former.send_signal(signal.SIGKILL)
        await until(lambda: former.status() == psutil.STATUS_ZOMBIE)
        await prober.ask("good@1.1", tmp_path, lambda: None)
        assert prober.health()["good@1.1"] is Health.OK
        assert asking().pid != former.pid
        silent.close()
    assert prober.health()["hung@1.1"] is Health.DEAD


async def test_closing_leaves_no_process(prober: Prober, tmp_path: Path) -> None:
    await prober.ask("good@1.1", tmp_path, lambda: None)
    process = asking()
    prober.close()
    assert not process.is_running()
