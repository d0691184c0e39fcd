# SPDX-License-Identifier: Apache-2.0
"""What the compatible root answers, on recorded hosts: a container's own values, or the host's."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.cgroups import LinuxCgroups
from agents.hostfs import HostFs
from lxcfs_helper.compat.answers import Answers
from lxcfs_helper.compat.callers import Callers, Home, UnknownCaller
from lxcfs_helper.compat.containers import Containers, Gone
from lxcfs_helper.compat.host_tree import CPU_DIRECTORY, HostTree
from tests.fakes.recorded_hosts import HOSTS, NAMES, PID, host_fs

NOBODY, HOSTS_OWN = 1, 2


class KnownCallers(Callers):
    """The container's process, one of the host, and everybody else is unknown."""

    def __init__(self, home: Home) -> None:
        self._container = home

    def home(self, pid: int) -> Home | None:
        if pid not in (PID, HOSTS_OWN):
            raise UnknownCaller
        return self._container if pid == PID else None


class Recorded:
    """A recorded host whose files may change."""

    def __init__(self, name: str, host: HostFs) -> None:
        self.name, self.host = name, host
        cgroups = LinuxCgroups(host)
        self.home = Home(cgroups.paths(PID), PID)
        self.containers = Containers(host, cgroups)
        self.answers = Answers(HostTree(host), KnownCallers(self.home), self.containers)


@pytest.fixture(params=NAMES)
def recorded(request: pytest.FixtureRequest) -> Iterator[Recorded]:
    found = Recorded(request.param, host_fs(HOSTS / request.param))
    yield found
    found.containers.close()


def total_kb(text: bytes) -> int:
    return int(text.split()[1])


def test_a_container_is_told_its_own_and_the_host_its_own(recorded: Recorded) -> None:
    answers = recorded.answers
    own = answers.text("proc/meminfo", answers.home(PID))
    hosts = answers.text("proc/meminfo", answers.home(HOSTS_OWN))
    assert hosts == (recorded.host.proc / "meminfo").read_bytes()
    limited = recorded.name != "v2-unlimited"
    assert (total_kb(own) < total_kb(hosts)) is limited
    assert not answers.fallbacks


def test_everybody_is_told_the_hosts_when_switched_over(recorded: Recorded) -> None:
    answers = recorded.answers
    answers.virtual = False
    assert answers.home(PID) is None
    hosts = (recorded.host.proc / "meminfo").read_bytes()
    assert answers.text("proc/meminfo", None) == hosts
    # Also who opened it before.
    assert answers.text("proc/meminfo", recorded.home) == hosts


def test_an_unknown_caller_is_told_the_hosts_and_counted(recorded: Recorded) -> None:
    assert recorded.answers.home(NOBODY) is None
    assert recorded.answers.fallbacks == {"unknown caller": 1}


def test_a_container_that_is_gone_is_told_the_hosts_and_counted(recorded: Recorded) -> None:
    answers = recorded.answers
    lost = Home(type(recorded.home.paths)("/lost", {"memory": "/lost", "cpu": "/lost"}))
    hosts = (recorded.host.proc / "meminfo").read_bytes()
    assert answers.text("proc/meminfo", lost) == hosts
    assert answers.fallbacks == {"cgroup gone": 1}
    with pytest.raises(Gone):
        recorded.containers.text(lost, "proc/meminfo")


def test_the_cpu_directory_is_one_consistent_tree(recorded: Recorded) -> None:
    answers, home = recorded.answers, recorded.answers.home(PID)

    def walk(path: str) -> Iterator[str]:
        for name in answers.names(path, home):
            below = f"{path}/{name}"
            node = answers.node(below, home)
            assert node is not None, below
            assert not node.mode & 0o222
            if node.directory:
                yield from walk(below)
            elif stat.S_ISREG(node.mode):
                yield below

    files = set(walk(CPU_DIRECTORY))
    assert f"{CPU_DIRECTORY}/online" in files
    tree = recorded.containers.tree(recorded.home, CPU_DIRECTORY)
    if tree is not None:  # its CPUs are limited
        assert files == {f"{CPU_DIRECTORY}/{name}" for name in tree}
        assert {answers.text(f"{CPU_DIRECTORY}/{name}", home) for name in tree} == {*tree.values()}
    assert answers.node(f"{CPU_DIRECTORY}/nothing", home) is None
    assert answers.node("sys/devices/other", home) is None


def test_the_slabs_are_a_table_without_rows(tmp_path: Path) -> None:
    shutil.copytree(HOSTS / "v1-hybrid", tmp_path / "host", symlinks=True)
    slabs = tmp_path / "host/proc/slabinfo"
    slabs.write_text("slabinfo - version: 2.1\n# name <active>\nkmalloc-8 1 2 3\n")
    answers = Recorded("v1-hybrid", host_fs(tmp_path / "host")).answers
    own = answers.text("proc/slabinfo", answers.home(PID))
    assert own == b"slabinfo - version: 2.1\n# name <active>\n"
    node = answers.node("proc/slabinfo", None)
    assert node is not None
    assert not answers.readable("proc/slabinfo", node, None, uid=1000)
    assert answers.readable("proc/slabinfo", node, None, uid=0)
    assert answers.readable("proc/slabinfo", node, answers.home(PID), uid=1000)


def test_the_size_is_that_of_the_text(recorded: Recorded) -> None:
    answers = recorded.answers
    for pid in (PID, HOSTS_OWN):
        home = answers.home(pid)
        for path in ("proc/meminfo", "proc/cpuinfo", "proc/stat"):
            node = answers.node(path, home)
            assert node is not None
            assert answers.size(path, node, home) == len(answers.text(path, home))


def test_no_line_ends_in_padding(recorded: Recorded) -> None:
    home = recorded.answers.home(PID)
    for path in ("proc/stat", "proc/uptime", "proc/loadavg"):
        if (recorded.host.proc.parent / path).exists():
            text = recorded.answers.text(path, home)
            assert not any(line.endswith(b"  ") for line in text.splitlines()), path


def test_only_what_the_host_has_is_offered(tmp_path: Path) -> None:
    for name in ("meminfo", "stat", "version"):
        (tmp_path / "proc").mkdir(exist_ok=True)
        (tmp_path / "proc" / name).write_text(f"{name}\n")
    tree = HostTree(host_fs(tmp_path))
    assert list(tree.names("proc")) == ["meminfo", "stat"]
    assert tree.node("proc/version") is None
    assert tree.node("proc/swaps") is None
    assert tree.text("proc/stat") == b"stat\n"
    with pytest.raises(FileNotFoundError):
        tree.names(CPU_DIRECTORY)


def test_what_root_alone_reads_is_not_shown_to_others(tmp_path: Path) -> None:
    directory = tmp_path / CPU_DIRECTORY
    directory.mkdir(parents=True)
    (directory / "secret").write_text("x")
    os.chmod(directory / "secret", 0o400)
    (tmp_path / "proc").mkdir()
    tree = HostTree(host_fs(tmp_path))
    node = tree.node(f"{CPU_DIRECTORY}/secret")
    assert node is not None
    answers = Answers(tree, KnownCallers.__new__(KnownCallers), Containers.__new__(Containers))
    assert not answers.readable(f"{CPU_DIRECTORY}/secret", node, None, uid=1000)
    assert answers.readable(f"{CPU_DIRECTORY}/secret", node, None, uid=0)
