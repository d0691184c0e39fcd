# SPDX-License-Identifier: Apache-2.0
"""The load of a container: what counts, how it is averaged, and how little is looked at."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.cgroups import LinuxCgroups
from lxcfs_helper.facts import LoadAccount
from lxcfs_helper.load import MOST_THREADS, LoadReader
from lxcfs_helper.views import loadavg
from tests.fakes import view_cases
from tests.fakes.recorded_hosts import PID, facts

CGROUP = "sys/fs/cgroup/kubepods/pod1/c1"


class World:
    """A container of cgroup v2 whose threads and CPU time are written as a test likes."""

    def __init__(self, directory: Path) -> None:
        self.root = directory
        fs = view_cases.write("v2-memory-high", directory)
        self.cgroups = LinuxCgroups(fs)
        self.reader = LoadReader(self.cgroups.open(self.cgroups.paths(PID)), fs.proc)
        self.looked_at = 0
        self.used(1)

    def used(self, microseconds: int) -> None:
        text = f"usage_usec {microseconds}\nuser_usec {microseconds}\nsystem_usec 0\n"
        (self.root / CGROUP / "cpu.stat").write_text(text)
        self.cgroups.read_anew()

    def threads(self, states: str, *, below: str = "", name: str = "cat") -> None:
        """One thread for each letter, numbered from 10."""
        directory = self.root / CGROUP / below
        directory.mkdir(exist_ok=True)
        first = 10 + len(list(self.root.glob("proc/[0-9]*")))
        for number, state in enumerate(states, first):
            file = self.root / f"proc/{number}/stat"
            file.parent.mkdir()
            file.write_text(f"{number} ({name}) {state} 1 1 1 0 -1\n")
        text = "".join(f"{number}\n" for number, _ in enumerate(states, first))
        (directory / "cgroup.threads").write_text(text)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_running_and_waiting_threads_count_here_and_below(world: World) -> None:
    world.threads("RSDZ", name="a) R (b")
    world.threads("RRS", below="nested")
    load = world.reader.read(LoadAccount(), 100.0)
    assert (load.running, load.threads) == (4, 7)


def test_nobody_is_looked_at_while_nothing_was_used(world: World) -> None:
    world.threads("RR")
    load = world.reader.read(LoadAccount(), 100.0)
    assert world.reader.read(load, 104.9) is load, "fresh"
    load = world.reader.read(load, 105.0)
    assert (load.running, load.threads) == (0, 2), "nothing was used, so nobody ran"
    world.used(2)
    assert world.reader.read(load, 110.0).running == 2


def test_a_thread_that_waits_for_a_disk_is_seen_by_its_pressure(world: World) -> None:
    pressure = world.root / CGROUP / "io.pressure"
    pressure.write_text("some total=1\n")
    world.threads("D")
    load = world.reader.read(LoadAccount(), 100.0)
    pressure.write_text("some total=2\n")
    assert world.reader.read(load, 105.0).running == 1


def test_of_many_threads_a_sample_stands_for_all(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.threads("R" * 200)
    opened: list[str] = []
    open_file: Callable[[str, int], int] = os.open

    def counted(path: str, flags: int) -> int:
        opened.append(str(path))
        return open_file(path, flags)

    monkeypatch.setattr(os, "open", counted)
    load = world.reader.read(LoadAccount(), 100.0)
    assert (load.running, load.threads) == (200, 200)
    assert sum(path.endswith("/stat") for path in opened) == MOST_THREADS


def test_threads_that_end_meanwhile_do_no_harm(world: World) -> None:
    world.threads("RR")
    (world.root / "proc/10/stat").unlink(missing_ok=True)
    with (world.root / CGROUP / "cgroup.threads").open("a") as file:
        file.write("999999\n")
    assert world.reader.read(LoadAccount(), 100.0).threads == 3
    (world.root / CGROUP / "cgroup.threads").unlink()
    world.used(3)
    assert world.reader.read(LoadAccount(), 200.0).threads == 0


def test_averages_are_the_kernels() -> None:
    """Two threads that run all the time: after one time constant 1 - 1/e of two."""
    load = LoadAccount(1.0)
    for step in range(1, 13):
        load = loadavg.advance(load, 2, 5, 1.0 + 5 * step)
    assert load.averages[0] == pytest.approx(2 * (1 - math.exp(-1)))
    assert load.averages[1] == pytest.approx(2 * (1 - math.exp(-1 / 5)))
    assert load.averages[2] == pytest.approx(2 * (1 - math.exp(-1 / 15)))
    # One long step says the same as many short ones.
    assert loadavg.advance(LoadAccount(1.0), 2, 5, 61.0).averages == pytest.approx(load.averages)


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 1e5)), max_size=20))
def test_averages_stay_between_what_was_seen(samples: list[tuple[int, float]]) -> None:
    host, container = facts("v2-nested")
    load, now = LoadAccount(), 1.0
    lengths = set()
    for running, passed in samples:
        now += passed
        load = loadavg.advance(load, running, running, now)
        assert all(0 <= average <= 1000 + 1e-6 for average in load.averages)
        lengths.add(len(loadavg.render(host, replace(container, load=load))))
    assert len(lengths) <= 1, "it is written in place"


def test_a_new_agent_goes_on_from_the_file() -> None:
    host, container = facts("v2-nested")
    load = LoadAccount(50.0, (1.25, 0.5, 0.25), 1, 9)
    text = loadavg.render(host, replace(container, load=load))
    assert text.split() == [b"1.25", b"0.50", b"0.25", b"1/9", b"0"]
    assert loadavg.resume(LoadAccount(60.0), text).averages == load.averages
    for other in (b"", b"x", b"1.25 0.50", b"\xff\xff"):
        assert loadavg.resume(load, other) == load
