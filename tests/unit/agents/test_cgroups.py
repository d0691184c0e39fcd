# SPDX-License-Identifier: Apache-2.0
"""Cgroups of recorded hosts, and of trees that change and vanish under the reader."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from agents.cgroups import Cgroup, CgroupPaths, Headroom, LinuxCgroups
from agents.errors import Unavailable
from tests.fakes.recorded_hosts import PID, host_fs, recorded

MIB = 1 << 20
GIB = 1 << 30


def opened(name: str) -> Cgroup:
    cgroups = LinuxCgroups(recorded(name))
    return cgroups.open(cgroups.paths(PID))


def test_memory_of_nested_v2_limits() -> None:
    memory = opened("v2-nested").memory
    limits = [(level.limit, level.high, level.swap) for level in memory.levels()]
    assert limits == [
        (2 * GIB, 1536 * MIB, 512 * MIB),
        (1792 * MIB, None, None),
        (None, None, None),
        (30 * GIB, None, None),
    ]
    assert memory.used() == 1080 * MIB
    assert memory.swap_used() == 96 * MIB
    assert memory.swappiness() is None
    assert not memory.swap_with_memory
    # Its own memory.high is the nearest: 1536 - 1080 used + 290 that could be dropped.
    assert memory.headroom() == Headroom(746 * MIB, memory.levels()[0].path)


def test_cpu_of_nested_v2_limits() -> None:
    cpu = opened("v2-nested").cpu
    assert [level.quota for level in cpu.levels()] == [None, 1.5, None, None]
    assert cpu.allowed() == frozenset({2, 3})
    times = cpu.times()
    assert times is not None
    assert (times.user_s, times.system_s) == (120.0, 30.0)
    assert times.throttled_s == 7.0, "as the pod counts it, whose quota it is"


def test_v2_without_swap_accounting_and_without_a_cpuset_of_its_own() -> None:
    cgroup = opened("v2-old-kernel")
    assert [level.swap for level in cgroup.memory.levels()] == [None, None, None, None]
    assert cgroup.memory.swap_used() is None
    assert cgroup.cpu.allowed() == frozenset({0, 1, 2, 3}), "the root's"
    assert [level.quota for level in cgroup.cpu.levels()] == [2.0, 2.5, None, None]


def test_v1_beside_an_empty_v2() -> None:
    cgroup = opened("v1-hybrid")
    assert [level.limit for level in cgroup.memory.levels()] == [
        512 * MIB,
        384 * MIB,
        None,
        8 * GIB,
    ]
    assert cgroup.memory.swap_with_memory
    assert cgroup.memory.swappiness() == 60
    stat = cgroup.memory.stat()
    assert stat["anon"] > 96 * MIB
    assert stat["inactive_file"] == 40 * MIB
    assert [level.quota for level in cgroup.cpu.levels()] == [None, 0.5, None, None]
    assert cgroup.cpu.allowed() == frozenset({0, 1})
    times = cgroup.cpu.times()
    assert times is not None
    assert 1 < times.used_s < 3
    assert times.throttled_s == pytest.approx(1.4, abs=0.2)


@pytest.mark.parametrize("name", ["v2-unlimited"])
def test_nobody_limits_anything(name: str) -> None:
    cgroup = opened(name)
    assert all(level.limit is None for level in cgroup.memory.levels())
    assert cgroup.memory.headroom() is None
    assert all(level.quota is None for level in cgroup.cpu.levels())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy that may be changed."""
    copy = tmp_path / "host"
    shutil.copytree(recorded("v2-nested").proc.parent, copy)
    return copy


def own_directory(tree: Path) -> Path:
    return next(tree.glob("sys/fs/cgroup/**/cri-containerd-*.scope"))


def test_changes_are_seen_through_the_open_files(tree: Path) -> None:
    cgroups = LinuxCgroups(host_fs(tree))
    cgroup = cgroups.open(cgroups.paths(PID))
    before = cgroup.memory.activity()
    assert cgroup.cpu.levels()[0].quota is None
    assert cgroup.memory.activity() == before
    (own_directory(tree) / "memory.current").write_text("4096\n")
    (own_directory(tree) / "cpu.max").write_text("25000 100000\n")
    assert cgroup.memory.activity() == before, "once in a round"
    assert cgroup.cpu.levels()[0].quota is None
    cgroups.read_anew()
    assert cgroup.memory.activity() != before
    assert cgroup.memory.used() == 4096
    assert cgroup.cpu.levels()[0].quota == 0.25


@pytest.mark.parametrize(
    ("name", "file"),
    [("v2-nested", "kubepods.slice/cpu.stat"), ("v1-hybrid", "cpuacct/kubepods/cpuacct.usage")],
)
def test_cpu_time_of_all_containers_together_tells_that_nobody_moved(
    tmp_path: Path, name: str, file: str
) -> None:
    copy = tmp_path / "host"
    shutil.copytree(recorded(name).proc.parent, copy)
    cgroups = LinuxCgroups(host_fs(copy))
    cpu = cgroups.open(cgroups.paths(PID)).cpu
    before = cpu.activity_above()
    assert before == (copy / "sys/fs/cgroup" / file).read_bytes()
    (copy / "sys/fs/cgroup" / file).write_text("1\n")
    assert cpu.activity_above() == before, "once in a round"
    cgroups.read_anew()
    assert cpu.activity_above() == b"1\n"


def test_a_cgroup_that_is_gone_tells_nothing(tree: Path) -> None:
    shutil.rmtree(own_directory(tree))
    cgroups = LinuxCgroups(host_fs(tree))
    cgroup = cgroups.open(cgroups.paths(PID))
    assert cgroup.memory.used() is None
    assert cgroup.memory.activity() is None
    assert cgroup.cpu.times() is None
    assert cgroup.memory.stat() == {}


def test_files_are_shared_and_all_closed_in_the_end(tree: Path) -> None:
    cgroups = LinuxCgroups(host_fs(tree))
    paths = cgroups.paths(PID)
    before = len(os.listdir("/proc/self/fd"))
    first, second = cgroups.open(paths), cgroups.open(paths)
    first.memory.levels()
    once = len(os.listdir("/proc/self/fd"))
    second.memory.levels()
    assert once > before
    assert len(os.listdir("/proc/self/fd")) == once
    first.close()
    assert second.memory.used() == 1080 * MIB
    second.close()
    second.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_processes_in_a_cgroup_and_below(tree: Path) -> None:
    own = own_directory(tree)
    (own / "cgroup.procs").write_text("4242\n")
    (own / "inner").mkdir()
    (own / "inner/cgroup.procs").write_text("4243\n4244\n")
    cgroups = LinuxCgroups(host_fs(tree))
    assert cgroups.pids(cgroups.paths(PID)) == {4242, 4243, 4244}


def test_a_process_that_is_gone(tree: Path) -> None:
    with pytest.raises(ProcessLookupError):
        LinuxCgroups(host_fs(tree)).paths(4711)


def test_what_cannot_be_reached_says_what_to_do(tree: Path) -> None:
    cgroups = LinuxCgroups(host_fs(tree))
    with pytest.raises(Unavailable, match="host's cgroup namespace"):
        cgroups.open(CgroupPaths("/../other"))
    with pytest.raises(Unavailable, match="are mounted below"):
        LinuxCgroups(host_fs(tree / "nowhere")).open(CgroupPaths("/a"))


@pytest.mark.parametrize(
    ("size_kib", "name"), [(64, "64KB"), (2048, "2MB"), (1 << 20, "1GB"), (16 << 20, "16GB")]
)
def test_huge_pages_of_every_size(tmp_path: Path, size_kib: int, name: str) -> None:
    inner = tmp_path / "sys/fs/cgroup/pod/c"
    inner.mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").write_text("memory cpu hugetlb\n")
    (inner.parent / f"hugetlb.{name}.max").write_text("100\n")
    (inner / f"hugetlb.{name}.max").write_text("max\n")
    (inner / f"hugetlb.{name}.current").write_text("40\n")
    cgroups = LinuxCgroups(host_fs(tmp_path))
    cgroup = cgroups.open(CgroupPaths("/pod/c"))
    assert cgroup.huge_pages(size_kib) == (100, 40)
    assert cgroup.huge_pages(4) is None
    cgroup.close()
    root = cgroups.open(CgroupPaths("/"))
    assert root.huge_pages(size_kib) is None, "everybody's"
    root.close()
