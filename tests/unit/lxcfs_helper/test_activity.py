# SPDX-License-Identifier: Apache-2.0
"""What moved, by the least that has to be read for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agents.cgroups import LinuxCgroups
from lxcfs_helper.activity import Activity
from lxcfs_helper.sources import Source
from tests.fakes.recorded_hosts import PID, host_fs, recorded

USED = Source.CPU | Source.IO | Source.LOAD


class Tree:
    """A recorded host that changes."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "host"
        shutil.copytree(recorded("v2-nested").proc.parent, self.root)
        self._cgroups = LinuxCgroups(host_fs(self.root))
        self.activity = Activity(self._cgroups.open(self._cgroups.paths(PID)))
        self.own = next(self.root.glob("sys/fs/cgroup/**/cri-containerd-*.scope"))
        self.top = self.root / "sys/fs/cgroup/kubepods.slice"

    def moved(self) -> int:
        self._cgroups.read_anew()
        return self.activity.moved()

    def moved_by_anybody(self) -> int:
        self._cgroups.read_anew()
        return self.activity.moved_by_anybody()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path)
    assert made.moved() == USED | Source.MEMORY, "nothing is known yet"
    return made


def test_as_long_as_all_containers_together_stand_still_nobody_is_looked_at(tree: Tree) -> None:
    (tree.own / "cpu.stat").write_text("usage_usec 1\n")
    assert tree.moved() == 0, "its own file was not even read"


def test_a_neighbour_that_moves_moves_nobody_else(tree: Tree) -> None:
    (tree.top / "cpu.stat").write_text("usage_usec 1\n")
    (tree.own / "memory.current").write_text("1\n")
    assert tree.moved() == 0, "it cannot have used memory itself"


def test_cpu_time_alone_and_with_memory(tree: Tree) -> None:
    (tree.top / "cpu.stat").write_text("usage_usec 1\n")
    (tree.own / "cpu.stat").write_text("usage_usec 1\n")
    assert tree.moved() == USED
    (tree.top / "cpu.stat").write_text("usage_usec 2\n")
    (tree.own / "cpu.stat").write_text("usage_usec 2\n")
    (tree.own / "memory.current").write_text("1\n")
    assert tree.moved() == USED | Source.MEMORY
    assert tree.moved() == 0


def test_what_others_change_is_found_by_whoever_asks_for_it(tree: Tree) -> None:
    tree.moved_by_anybody()
    assert tree.moved_by_anybody() == 0
    (tree.own / "memory.current").write_text("1\n")
    assert tree.moved_by_anybody() == Source.MEMORY, "the host took it back"
    (tree.own.parent / "memory.current").write_text("1\n")
    assert tree.moved_by_anybody() == Source.MEMORY, "a neighbour below the same limit"
    assert tree.moved_by_anybody() == 0


def test_where_nothing_counts_cpu_time_everything_moves(tree: Tree) -> None:
    for directory in (tree.top, tree.own):
        (directory / "cpu.stat").unlink()
    cgroups = LinuxCgroups(host_fs(tree.root))
    fresh = Activity(cgroups.open(cgroups.paths(PID)))
    assert fresh.moved() == USED | Source.MEMORY
    cgroups.read_anew()
    assert fresh.moved() == USED
