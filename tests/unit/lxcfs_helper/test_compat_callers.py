# SPDX-License-Identifier: Apache-2.0
"""Whose values a caller is shown: by processes that are laid out in a directory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.hostfs import HostFs
from lxcfs_helper.compat import callers
from lxcfs_helper.compat.callers import Callers, UnknownCaller

ONE, TWO = "1" * 64, "2" * 64
HOST, POD, OTHER = "host-namespace", "pod-namespace", "other-namespace"


class Proc:
    """A /proc in which processes come, move and go."""

    def __init__(self, directory: Path) -> None:
        self.host = HostFs(proc=directory / "proc")
        self._namespaces = directory / "namespaces"
        self._namespaces.mkdir()
        self.process("self", "/", HOST)
        self.process(1, "/init.scope", HOST, number=1)

    def process(self, pid: int | str, cgroup: str, namespace: str, number: int = 7) -> None:
        own = self.host.proc / str(pid)
        (own / "ns").mkdir(parents=True)
        (self._namespaces / namespace).touch()
        (own / "ns/pid").symlink_to(self._namespaces / namespace)
        (own / "cgroup").write_text(f"4:memory:{cgroup}\n2:cpu:{cgroup}\n0::/\n")
        (own / "status").write_text(f"Name:\tx\nNSpid:\t{pid}\t{number}\nPid:\t1\n")

    def move(self, pid: int, cgroup: str) -> None:
        (self.host.proc / str(pid) / "cgroup").write_text(f"4:memory:{cgroup}\n0::/\n")


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proc:
    proc = Proc(tmp_path)

    def first(host: HostFs, pid: int, namespace: int) -> int:
        return callers.search_first_process(host, namespace)

    monkeypatch.setattr(callers, "first_process", first)
    return proc


@pytest.fixture
def home(proc: Proc) -> Callable[[int], str | None]:
    """The memory cgroup whose values a process is shown; None: the host's."""
    known = Callers(proc.host)

    def ask(pid: int) -> str | None:
        found = known.home(pid)
        return None if found is None else found.paths.controllers["memory"]

    return ask


Home = Callable[[int], str | None]


def test_a_process_of_the_host_is_shown_the_host(proc: Proc, home: Home) -> None:
    proc.process(50, "/user.slice/session-1.scope", HOST)
    assert home(50) is None
    assert home(1) is None


@pytest.mark.parametrize(
    ("cgroup", "own"),
    [
        (f"/kubepods/burstable/podabc/{ONE}", f"/kubepods/burstable/podabc/{ONE}"),
        (f"/kubepods.slice/cri-containerd-{ONE}.scope/init.scope", None),
        (f"/kubepods.slice/crio-{ONE}.scope/container/worker", None),
        (f"/docker/{ONE}/docker/{TWO}/deeper", f"/docker/{ONE}/docker/{TWO}"),
    ],
)
def test_a_cgroup_that_is_named_after_a_container(
    proc: Proc, home: Home, cgroup: str, own: str | None
) -> None:
    proc.process(50, cgroup, POD)
    assert home(50) == (own or cgroup[: cgroup.index(".scope") + len(".scope")])


def test_a_hundred_digits_are_no_id(proc: Proc, home: Home) -> None:
    proc.process(50, f"/user.slice/{'a' * 100}", HOST)
    assert home(50) is None


@pytest.mark.parametrize("init", ["/lxc/web", "/lxc/web/init.scope"])
def test_without_a_name_the_first_process_of_the_namespace_stands_for_it(
    proc: Proc, home: Home, init: str
) -> None:
    proc.process(40, init, POD, number=1)
    proc.process(50, "/lxc/web/system.slice/worker", POD)
    proc.process(51, "/user.slice", POD)  # entered it from outside
    assert home(50) == home(51) == home(40) == "/lxc/web"


def test_in_a_shared_pid_namespace_everybody_has_his_own(proc: Proc, home: Home) -> None:
    proc.process(40, f"/pod/{'3' * 64}", POD, number=1)
    proc.process(50, f"/pod/{ONE}", POD)
    proc.process(51, f"/pod/{TWO}", POD)
    proc.process(52, f"/pod/{TWO}", HOST)
    assert home(50) == f"/pod/{ONE}"
    assert home(51) == home(52) == f"/pod/{TWO}"


def test_a_host_that_is_a_container_itself(proc: Proc) -> None:
    proc.move(1, f"/docker/{ONE}")
    proc.process(50, f"/docker/{ONE}/session", HOST)
    proc.process(51, f"/docker/{ONE}/kubelet/{TWO}", POD)
    known = Callers(proc.host)
    assert known.home(50) is None
    inner = known.home(51)
    assert inner is not None
    assert inner.paths.controllers["memory"] == f"/docker/{ONE}/kubelet/{TWO}"


def test_one_container_is_one_object(proc: Proc) -> None:
    proc.process(50, f"/pod/{ONE}/a", POD)
    proc.process(51, f"/pod/{ONE}/b", POD)
    proc.process(52, f"/pod/{TWO}", POD)
    known = Callers(proc.host)
    assert known.home(50) is known.home(51)
    assert known.home(50) is not known.home(52)


def test_a_process_that_is_moved_is_followed(proc: Proc, home: Home) -> None:
    proc.process(50, f"/pod/{ONE}", POD)
    assert home(50) == f"/pod/{ONE}"
    proc.move(50, f"/pod/{TWO}")
    assert home(50) == f"/pod/{TWO}"


def test_a_number_that_is_used_again(
    proc: Proc, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel says of a kept descriptor that its process has ended."""
    proc.process(50, f"/pod/{ONE}", POD)
    assert home(50) == f"/pod/{ONE}"
    old = proc.host.of_pid(50)
    old.rename(old.with_name("ended"))
    proc.process(50, f"/pod/{TWO}", POD)
    pread, ended = os.pread, (old.with_name("ended") / "cgroup").stat().st_ino

    def kernel(descriptor: int, size: int, offset: int) -> bytes:
        if os.fstat(descriptor).st_ino == ended:
            raise ProcessLookupError
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", kernel)
    assert home(50) == f"/pod/{TWO}"


def test_a_namespace_whose_first_process_is_gone(proc: Proc, home: Home) -> None:
    proc.process(50, "/lxc/web", OTHER)
    with pytest.raises(UnknownCaller):
        home(50)
    proc.process(40, "/lxc/web", OTHER, number=1)
    assert home(50) == "/lxc/web"


@pytest.mark.parametrize("pid", [0, 4711])
def test_nobody_that_we_see(home: Home, pid: int) -> None:
    with pytest.raises(UnknownCaller):
        home(pid)


def test_few_descriptors_are_kept(proc: Proc, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "_MOST_PROCESSES", 4)
    for pid in range(50, 70):
        proc.process(pid, f"/pod/{ONE}", POD)
    before = len(os.listdir("/proc/self/fd"))
    for pid in [*range(50, 70), *range(50, 70)]:
        assert home(pid) == f"/pod/{ONE}"
    assert len(os.listdir("/proc/self/fd")) - before <= 4


def test_the_root_of_cgroup2_beside_v1_is_nobodys(proc: Proc) -> None:
    proc.process(40, "/lxc/web", POD, number=1)
    proc.process(50, f"/pod/{ONE}/x", POD)
    known = Callers(proc.host)
    for pid in (40, 50):
        home = known.home(pid)
        assert home is not None
        assert home.paths.unified is None
