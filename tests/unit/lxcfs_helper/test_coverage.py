# SPDX-License-Identifier: Apache-2.0
"""Containers come, change and go: what is written, and what is to be attached."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from agents.cgroups import LinuxCgroups
from agents.containers import Container, Pod
from agents.mounts import LinuxMounts
from lxcfs_helper.config import InjectConfig, ViewConfig
from lxcfs_helper.coverage import MAX_AGE_S, ORPHAN_S, Coverage, Order
from lxcfs_helper.files import ViewFiles
from lxcfs_helper.inject import Outcome, Result, Step
from lxcfs_helper.reading import parse_meminfo
from lxcfs_helper.status import status
from tests.fakes.recorded_hosts import PID, host_fs, recorded

ID = "3f1c9a5e7b2d4f60819a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f70"
STAT = f"{PID} (python3) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {{start}} 0 0\n"


def pretended(directory: Path) -> ViewFiles:
    """Files in a plain directory, as if a tmpfs were mounted there."""
    files = ViewFiles(directory, LinuxMounts(), Path("/proc"))
    number = directory.stat().st_dev
    files.device = os.major(number), os.minor(number)
    return files


class World:
    """A recorded host whose files may change, a clock, and what the coverage made of them."""

    def __init__(self, directory: Path) -> None:
        self.tree = directory / "host"
        shutil.copytree(recorded("v2-nested").proc.parent, self.tree)
        self.now = 1000.0
        self.process(start=50_000)
        (directory / "views").mkdir()
        self.files = pretended(directory / "views")
        self.config = ViewConfig()
        self.coverage = self.agent()

    def agent(self) -> Coverage:
        host = host_fs(self.tree)
        return Coverage(self.config, host, LinuxCgroups(host), self.files, lambda: self.now)

    def process(self, *, start: int | None) -> None:
        """Start, replace or (None) end the container's first process."""
        path = self.tree / "proc" / str(PID) / "stat"
        path.unlink() if start is None else path.write_text(STAT.format(start=start))

    def cgroup(self, name: str, text: str) -> None:
        own = next(self.tree.glob("sys/fs/cgroup/**/cri-containerd-*.scope"))
        (own / name).write_text(text)

    def meminfo(self) -> dict[str, int]:
        return parse_meminfo((self.files.read(ID, "meminfo") or b"").decode())


CONTAINER = Container(ID, "main", Pod("ada", "jupyter", "uid"), PID)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def shown(order: Order) -> set[str]:
    return {str(wish.target) for wish in order.wishes if wish.source is not None}


def attached(order: Order) -> Mapping[Path, Result]:
    """What an injector answers when all goes well."""
    return {
        wish.target: Result(Outcome.ABSENT)
        if wish.source is None
        else Result(Outcome.SHOWN, (Step.ATTACH,))
        for wish in order.wishes
    }


def settle(world: World) -> Order:
    (order,) = world.coverage.orders()
    world.coverage.settle(order, attached(order), beneath=True)
    return order


def test_a_new_container_is_rendered_before_anything_is_attached(world: World) -> None:
    world.coverage.observe([CONTAINER])
    assert world.coverage.orders() == (), "there is nothing to show yet"
    sweep = world.coverage.refresh()
    assert (sweep.containers, sweep.rendered) == (1, 1)
    order = settle(world)
    assert (len(shown(order)), order.expected) == (6, True)
    assert world.meminfo()["MemTotal"] == 1792 * 1024
    assert world.files.read(ID, "cpu") == b"0-1\n"
    (row,) = status(world.coverage, sweep, beneath=True)["containers"]
    assert row == {
        "namespace": "jupyter",
        "pod": "ada",
        "container": "main",
        "id": ID,
        "cpus": 2,
        "memory_limit": 1792 << 20,
        "memory_used": 1080 << 20,
        "views": dict.fromkeys(("meminfo", "cpuinfo", "stat", "cpu"), "attached"),
    }


def test_only_what_moved_is_rendered_again_and_nothing_gets_old(world: World) -> None:
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    settle(world)
    world.now += 1
    assert world.coverage.refresh().rendered == 0
    world.cgroup("memory.current", f"{1100 << 20}\n")
    assert world.coverage.refresh().rendered == 1
    assert world.meminfo()["MemFree"] == (1792 - 1100) * 1024
    assert world.coverage.orders() == (), "written in place"
    rendered_at = world.now
    while world.coverage.refresh().rendered == 0:
        world.now += world.config.heartbeat
        assert world.now - rendered_at < MAX_AGE_S


def test_new_limits_are_new_files_where_the_length_changes(world: World) -> None:
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    settle(world)
    world.cgroup("memory.max", f"{1 << 30}\n")
    world.cgroup("cpu.max", "100000 100000\n")
    world.cgroup("cpu.stat", "usage_usec 1\nuser_usec 1\nsystem_usec 0\n")
    world.now += 1
    assert world.coverage.refresh().rendered == 1
    assert world.meminfo()["MemTotal"] == 1024 * 1024
    assert world.files.read(ID, "cpu") == b"0\n"
    assert settle(world).expected


def test_limits_that_are_lifted_show_the_host(world: World) -> None:
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    settle(world)
    for directory in world.tree.glob("sys/fs/cgroup/**/"):
        if (directory / "memory.max").exists():
            (directory / "memory.max").write_text("max\n")
            (directory / "cpu.max").write_text("max 100000\n")
            (directory / "cpuset.cpus.effective").write_text("0-7\n")
    world.now += MAX_AGE_S
    world.coverage.refresh()
    order = settle(world)
    assert shown(order) == set()
    (row,) = status(world.coverage, world.coverage.refresh(), beneath=True)["containers"]
    assert set(row["views"].values()) == {"host"}


def test_a_runtime_that_forgets_for_a_moment_does_no_harm(world: World) -> None:
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    settle(world)
    world.coverage.observe([])
    assert [one.id for one in world.coverage.all()] == [ID], "its process still runs"
    world.process(start=None)
    world.coverage.observe([])
    assert [*world.coverage.all()] == []
    assert world.files.containers() == frozenset()


def test_a_reused_pid_is_another_container(world: World) -> None:
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    world.process(start=99_999)
    world.coverage.observe([])
    assert [*world.coverage.all()] == []


def test_files_of_nobody_are_removed_after_a_while(world: World) -> None:
    world.files.write("gone", "stat", b"1\n")
    world.coverage.observe([CONTAINER])
    assert world.files.containers() == {"gone"}
    world.now += ORPHAN_S
    world.coverage.observe([CONTAINER])
    assert world.files.containers() == frozenset()


def test_a_new_agent_never_lets_cpu_time_go_back(world: World) -> None:
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    before = [int(word) for word in (world.files.read(ID, "stat") or b"").split()[1:11]]
    world.coverage.close()
    world.cgroup("cpu.stat", "usage_usec 0\nuser_usec 0\nsystem_usec 0\n")
    successor = world.agent()
    successor.observe([CONTAINER])
    successor.refresh()
    after = [int(word) for word in (world.files.read(ID, "stat") or b"").split()[1:11]]
    assert all(new >= old for new, old in zip(after, before, strict=True))


def test_excluded_later_everything_is_taken_away_and_forgotten(world: World) -> None:
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    settle(world)
    inject = InjectConfig(namespaces=("other",))
    world.coverage.config = world.config.model_copy(update={"inject": inject})
    world.coverage.observe([CONTAINER])
    assert shown(settle(world)) == set()
    world.coverage.observe([CONTAINER])
    assert [*world.coverage.all()] == []
    assert world.files.containers() == frozenset()
    (row,) = status(world.coverage, world.coverage.refresh(), beneath=True)["containers"]
    assert set(row["views"].values()) == {"excluded"}


def test_a_container_excluded_before_this_agent_started_is_cleared_too(world: World) -> None:
    world.files.write(ID, "stat", b"of an earlier agent\n")
    inject = InjectConfig(exclude=("jupyter",))
    world.coverage.config = world.config.model_copy(update={"inject": inject})
    world.coverage.observe([CONTAINER])
    assert shown(settle(world)) == set()


def test_what_cannot_be_told_for_sure_is_left_alone_with_the_reason(world: World) -> None:
    untold = replace(CONTAINER, id="1111", pid=None)
    stranger = replace(CONTAINER, id="2222")
    world.coverage.observe([untold, stranger])
    assert [*world.coverage.all()] == []
    rows = status(world.coverage, world.coverage.refresh(), beneath=True)["containers"]
    assert {row["id"]: row["views"]["stat"] for row in rows} == {
        "1111": "failed: the container runtime does not tell its pid",
        "2222": f"failed: process {PID} is in no cgroup named after the container",
    }


def test_a_cgroup_that_vanishes_keeps_the_last_values(world: World) -> None:
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    settle(world)
    before = world.files.read(ID, "meminfo")
    for path in world.tree.glob("sys/fs/cgroup/**/cri-containerd-*.scope"):
        shutil.rmtree(path)
    world.coverage = world.agent()
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    assert world.files.read(ID, "meminfo") == before
    (one,) = world.coverage.all()
    assert "cgroup is gone" in one.views()["meminfo"]


def test_a_failed_injection_is_told_and_tried_again(world: World) -> None:
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    (order,) = world.coverage.orders()
    failure = Result(Outcome.FAILED, (), "operation not permitted")
    world.coverage.settle(order, {w.target: failure for w in order.wishes}, beneath=True)
    (one,) = world.coverage.all()
    assert one.views()["cpu"] == "failed: operation not permitted"
    (again,) = world.coverage.orders(everything=True)
    assert not again.expected
