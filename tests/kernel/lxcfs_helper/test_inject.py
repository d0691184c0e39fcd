# SPDX-License-Identifier: Apache-2.0
"""Injection acts on the process that was meant, or on none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agents import mountinfo, processes
from agents.cgroups import LinuxCgroups
from agents.containers import Container
from agents.hostfs import PROC, HostFs
from agents.mounts import LinuxMounts, MountFeatures
from agents.namespaces import NamespaceHelper
from agents.processes import ProcessKey
from lxcfs_helper.files import ViewFiles
from lxcfs_helper.inject import Injector, Outcome, Step, Wish
from lxcfs_helper.selection import Located, locate
from tests.fakes.real_container import RealContainer

MakeContainer = Callable[..., RealContainer]
HOST = HostFs()
MEMINFO = Path("/proc/meminfo")


@pytest.fixture
def files(tmp_path: Path) -> Iterator[ViewFiles]:
    files = ViewFiles(tmp_path / "views", LinuxMounts(), PROC)
    files.mount()
    try:
        yield files
    finally:
        files.unmount()


@pytest.fixture
def injector(namespaces: NamespaceHelper) -> Injector:
    return Injector(HOST, LinuxCgroups(HOST), LinuxMounts(), namespaces)


def wish(files: ViewFiles, one: Container, *, shown: bool = True) -> Wish:
    assert files.device is not None
    source = files.path(one.id, "meminfo") if shown else None
    return Wish(MEMINFO, source, files.source, files.device, files.root(one.id, "meminfo"))


def stack(pid: int) -> list[str]:
    entries = mountinfo.at(mountinfo.read(PROC, pid), MEMINFO)
    return [entry.root for entry in entries]


def test_attach_replace_and_detach(
    files: ViewFiles, injector: Injector, make_container: MakeContainer, beneath: bool
) -> None:
    one = make_container()
    located = locate(HOST, LinuxCgroups(HOST), one.container())
    files.write(one.id, "meminfo", b"first\n")

    result = injector.reconcile(located, [wish(files, one.container())])[MEMINFO]
    assert (result.outcome, result.steps) == (Outcome.SHOWN, (Step.ATTACH,))
    assert one.read("/proc/meminfo") == "first\n"

    assert files.write(one.id, "meminfo", b"other\n") is False, "same length: in place"
    assert one.read("/proc/meminfo") == "other\n"
    result = injector.reconcile(located, [wish(files, one.container())])[MEMINFO]
    assert (result.outcome, result.steps) == (Outcome.SHOWN, ())

    assert files.write(one.id, "meminfo", b"a longer one\n") is True
    assert one.read("/proc/meminfo") == "other\n", "the old file is whole until it is replaced"
    result = injector.reconcile(located, [wish(files, one.container())])[MEMINFO]
    assert (result.outcome, result.steps) == (Outcome.SHOWN, (Step.REPLACE,))
    assert one.read("/proc/meminfo") == "a longer one\n"
    piled = 1 if beneath else 2
    assert len(stack(one.pid)) == piled, "nothing piles up where the kernel can do without"

    gone = wish(files, one.container(), shown=False)
    result = injector.reconcile(located, [gone])[MEMINFO]
    assert (result.outcome, result.steps) == (Outcome.ABSENT, (Step.DETACH,) * piled)
    assert stack(one.pid) == []


class OlderKernel(LinuxMounts):
    """One that can attach nothing beneath."""

    def features(self) -> MountFeatures:
        return replace(super().features(), beneath=False)


def test_without_beneath_mounts_are_stacked_and_all_taken_away_again(
    files: ViewFiles, namespaces: NamespaceHelper, make_container: MakeContainer
) -> None:
    injector = Injector(HOST, LinuxCgroups(HOST), OlderKernel(), namespaces)
    one = make_container()
    located = locate(HOST, LinuxCgroups(HOST), one.container())
    for text in (b"1\n", b"22\n", b"333\n"):
        files.write(one.id, "meminfo", text)
        injector.reconcile(located, [wish(files, one.container())])
        assert one.read("/proc/meminfo") == text.decode()
    assert len(stack(one.pid)) == 3
    gone = wish(files, one.container(), shown=False)
    assert injector.reconcile(located, [gone])[MEMINFO].outcome is Outcome.ABSENT
    assert stack(one.pid) == []


@pytest.mark.parametrize("kernel", [LinuxMounts, OlderKernel])
def test_a_file_that_was_deleted_is_replaced(
    files: ViewFiles,
    namespaces: NamespaceHelper,
    make_container: MakeContainer,
    kernel: type[LinuxMounts],
) -> None:
    injector = Injector(HOST, LinuxCgroups(HOST), kernel(), namespaces)
    one = make_container()
    located = locate(HOST, LinuxCgroups(HOST), one.container())
    files.write(one.id, "meminfo", b"deleted\n")
    injector.reconcile(located, [wish(files, one.container())])
    files.remove(one.id)
    assert one.read("/proc/meminfo") == "deleted\n"
    files.write(one.id, "meminfo", b"new\n")
    result = injector.reconcile(located, [wish(files, one.container())])[MEMINFO]
    assert (result.outcome, result.reason) == (Outcome.SHOWN, "")
    assert one.read("/proc/meminfo") == "new\n"
    assert not any("deleted" in root for root in stack(one.pid))


def test_what_others_mounted_there_stays(
    files: ViewFiles, injector: Injector, make_container: MakeContainer
) -> None:
    one = make_container()
    located = locate(HOST, LinuxCgroups(HOST), one.container())
    files.write(one.id, "meminfo", b"ours\n")
    one.run("mount", "--bind", "/proc/version", "/proc/meminfo")
    result = injector.reconcile(located, [wish(files, one.container())])[MEMINFO]
    assert (result.outcome, result.steps) == (Outcome.FOREIGN, ())
    assert one.read("/proc/meminfo").startswith("Linux version")


def test_a_pid_that_belongs_to_another_process_now_is_left_alone(
    files: ViewFiles, injector: Injector, make_container: MakeContainer
) -> None:
    one, other = make_container("one"), make_container("other")
    located = locate(HOST, LinuxCgroups(HOST), one.container())
    files.write(one.id, "meminfo", b"not for you\n")
    key = processes.identify(PROC, other.pid)
    assert key is not None
    for reused in (ProcessKey(other.pid, located.process.start_ticks - 1), key):
        mistaken = Located(located.container, reused, located.cgroup)
        result = injector.reconcile(mistaken, [wish(files, one.container())])[MEMINFO]
        assert (result.outcome, result.steps) == (Outcome.GONE, ())
    assert stack(other.pid) == []


def test_a_container_that_has_ended_is_gone(
    files: ViewFiles, injector: Injector, make_container: MakeContainer
) -> None:
    one = make_container()
    container = one.container()
    located = locate(HOST, LinuxCgroups(HOST), container)
    files.write(one.id, "meminfo", b"nobody reads this\n")
    one.kill()
    assert injector.reconcile(located, [wish(files, container)])[MEMINFO].outcome is Outcome.GONE


def test_the_mount_namespace_of_the_agent_is_never_touched(
    files: ViewFiles, injector: Injector, make_container: MakeContainer
) -> None:
    one = make_container()
    intruder = one.spawn("sleep 600")  # in the container's cgroups, in the host's namespaces
    key = processes.identify(PROC, intruder.pid)
    assert key is not None
    cgroups = LinuxCgroups(HOST)
    located = Located(one.container(), key, cgroups.paths(one.pid))
    files.write(one.id, "meminfo", b"this must not be seen on the host\n")
    result = injector.reconcile(located, [wish(files, one.container())])[MEMINFO]
    assert result.outcome in (Outcome.FAILED, Outcome.GONE)
    assert stack(os.getpid()) == []
