# SPDX-License-Identifier: Apache-2.0
"""A run is killed, and swept: all of it goes, and nothing beside it does."""

from __future__ import annotations

import os
import secrets
import select
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agents import mountinfo
from agents.errors import AgentError
from agents.hostfs import PROC, HostFs
from agents.mounts import LinuxMounts
from agents.standin.cgroup_tree import CgroupTree, hierarchies
from agents.standin.leftover_mounts import LeftoverMounts
from agents.standin.leftovers import Swept, sweep
from agents.standin.run_directory import RUN_DIR_VARIABLE, claim, environment
from tests.fakes.containers import eventually, exists, kill

Spawn = Callable[..., int]

#: A run: a runner with two containers, which then waits to be killed.
RUN = """
import sys
from pathlib import Path
from agents.hostfs import HostFs
from agents.standin.runtime import ContainerRunner
from tests.fakes.containers import container

runner = ContainerRunner(Path(sys.argv[1]), sys.argv[2], HostFs())
for _ in range(2):
    print(runner.start(container("sh", "-c", "setsid sleep 1000 & sleep 1000")).pid, flush=True)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Start processes in sessions of their own; they end with the test, if they have not before."""
    children: list[subprocess.Popen[bytes]] = []

    def start(*argv: str, **env: str) -> int:
        children.append(subprocess.Popen(argv, env={**os.environ, **env}, start_new_session=True))
        return children[-1].pid

    yield start
    for child in children:
        child.kill()
        child.wait(10)


@pytest.fixture
def swept(directory: Path, cgroup_parent: str, host: HostFs) -> Callable[[], Swept]:
    return lambda: sweep(directory, cgroup_parent, host)


def test_all_that_a_killed_run_left_is_removed(
    directory: Path, cgroup_parent: str, host: HostFs, swept: Callable[[], Swept]
) -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(RUN), str(directory), cgroup_parent],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert run.stdout is not None
        firsts = [int(run.stdout.readline()) for _ in range(2)]
        assert run.stdout.readline() == b"ready\n"
    finally:
        run.kill()
        run.communicate(timeout=10)
    tree = CgroupTree(host, cgroup_parent)
    eventually(
        lambda: len(tree.processes(tree.parent)) == 6,
        "the containers outlive their runner",
        timeout_s=20,
    )
    members = tree.processes(tree.parent)
    shims = {_parent(pid) for pid in firsts}
    assert all(exists(pid) for pid in shims), "so do their shims"

    found = swept()

    assert found.remaining == ()
    # The kernel ends some of them together with others.
    assert set(found.processes)
    assert set(found.processes) <= members | shims
    assert not [pid for pid in members | shims if exists(pid)]
    assert found.paths == (str(directory),)
    assert not directory.exists()
    assert f"/{cgroup_parent}" in found.cgroups
    assert not [root for root in hierarchies(host.cgroup) if (root / cgroup_parent).exists()]
    assert found.describe().startswith("removed what an earlier run left (processes: ")
    assert swept() == Swept(), "the second time there is nothing to do"
    assert Swept().describe() == ""


def _parent(pid: int) -> int:
    return int((PROC / f"{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_marked_processes_are_killed_and_no_others(
    directory: Path, swept: Callable[[], Swept], spawn: Spawn
) -> None:
    claim(directory)
    below = spawn("sleep", "100", **{RUN_DIR_VARIABLE: f"{directory}/pods"})
    marked = spawn("sleep", "100", **environment(directory))
    sibling = spawn("sleep", "100", **{RUN_DIR_VARIABLE: f"{directory}-2"})
    above = spawn("sleep", "100", **{RUN_DIR_VARIABLE: str(directory.parent)})
    named = spawn("sleep", "100", OTHER=f"{RUN_DIR_VARIABLE}={directory}")
    for pid in (marked, below, sibling, above, named):
        eventually(lambda pid=pid: b"sleep" in _cmdline(pid), "program runs")  # type: ignore[misc]
    found = swept()
    assert set(found.processes) == {marked, below}
    assert [exists(pid) for pid in (marked, below)] == [False, False]
    assert [exists(pid) for pid in (sibling, above, named)] == [True, True, True]


def _cmdline(pid: int) -> bytes:
    return (PROC / f"{pid}/cmdline").read_bytes()


def test_whoever_sweeps_is_spared_with_its_ancestors(directory: Path, cgroup_parent: str) -> None:
    """A shell in which `nodeshare up` was started may carry the mark, too."""
    claim(directory)
    sweeping = (
        "from pathlib import Path; import sys; from agents.hostfs import HostFs;"
        "from agents.standin.leftovers import sweep;"
        "print(sweep(Path(sys.argv[1]), sys.argv[2], HostFs()).processes)"
    )
    shell = '"$@"; echo spared'
    result = subprocess.run(
        ["sh", "-c", shell, "sh", sys.executable, "-c", sweeping, str(directory), cgroup_parent],
        env={**os.environ, **environment(directory)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.stdout == "()\nspared\n", result


def test_members_of_our_cgroups_are_killed_and_no_others(
    directory: Path, cgroup_parent: str, host: HostFs, swept: Callable[[], Swept], spawn: Spawn
) -> None:
    ours = CgroupTree(host, cgroup_parent)
    other = CgroupTree(host, f"{cgroup_parent}-2")
    ours.create(ours.parent / "kubepods/pod1/c1")
    other.create(other.parent / "kubepods/pod1/c1")
    try:
        pids = {tree: spawn("sleep", "100") for tree in (ours, other)}
        for tree, pid in pids.items():
            for directory_ in tree.directories(tree.parent / "kubepods/pod1/c1"):
                (directory_ / "cgroup.procs").write_text(str(pid))
        found = swept()
        assert found.processes == (pids[ours],)
        assert len(found.cgroups) == 4
        assert exists(pids[other])
        assert other.processes(other.parent) == {pids[other]}
        kill(pids[other])
        eventually(lambda: not exists(pids[other]), "process ended")
    finally:
        other.kill(other.parent, timeout_s=5)
        assert other.remove(other.parent) == ()


def test_a_cgroup_of_its_own_goes_with_a_marked_process(
    directory: Path, cgroup_parent: str, host: HostFs, swept: Callable[[], Swept], spawn: Spawn
) -> None:
    """As the holder of mount clients has one. A cgroup with another's name or process stays."""
    claim(directory)
    root = next(root for root in hierarchies(host.cgroup) if root.name != "cpuset")
    ours, foreign, used = (
        root / name.format(cgroup_parent) for name in ("{}-holder", "test-{}", "{}-used")
    )
    pids = {}
    try:
        for group in (ours, foreign, used):
            group.mkdir()
            pids[group] = spawn("sleep", "100", **environment(directory))
            (group / "cgroup.procs").write_text(str(pids[group]))
        stranger = spawn("sleep", "100")
        (used / "cgroup.procs").write_text(str(stranger))
        found = swept()
        assert set(found.processes) == set(pids.values())
        assert found.cgroups == (f"/{ours.name}",)
        assert not ours.exists()
        assert foreign.is_dir()
        assert exists(stranger)
        kill(stranger)
    finally:
        eventually(lambda: not used.exists() or not _busy(used), "empty")
        for group in (ours, foreign, used):
            if group.exists():
                group.rmdir()


def _busy(group: Path) -> bool:
    return bool((group / "cgroup.procs").read_text())


def test_mounts_are_detached_and_what_they_show_is_spared(
    directory: Path, tmp_path: Path, swept: Callable[[], Swept]
) -> None:
    """A bind mount of the same file system is the dangerous one: only the mount table tells it."""
    mounts = LinuxMounts()
    claim(directory)
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep/file").write_text("kept")
    for name in ("bind", "bind of a file", "tmpfs/inner", "stack"):
        (directory / name).mkdir(parents=True)
    (directory / "one").touch()
    mounts.bind(outside, directory / "bind")
    mounts.bind(outside / "deep/file", directory / "one")
    mounts.bind(outside, directory / "bind of a file")
    mounts.mount("lower", directory / "stack", "tmpfs")
    mounts.mount("upper", directory / "stack", "tmpfs")
    mounts.mount("outer", directory / "tmpfs", "tmpfs")
    (directory / "tmpfs/inner").mkdir()
    mounts.bind(outside, directory / "tmpfs/inner")
    (directory / "link").symlink_to(outside)
    (directory / "deep").mkdir()
    (directory / "deep/up").symlink_to("../..")
    neighbour = tmp_path / f"{directory.name}-2"
    neighbour.mkdir()
    mounts.mount("neighbour", neighbour, "tmpfs")
    try:
        found = swept()
        assert found.remaining == ()
        assert len(found.mounts) == 7
        assert not directory.exists()
        assert (outside / "deep/file").read_text() == "kept"
        assert mountinfo.at(mountinfo.read(PROC), neighbour)
    finally:
        mounts.unmount(neighbour)


def test_a_tree_of_somebody_else_keeps_its_mounts(
    directory: Path, shared: Path, swept: Callable[[], Swept]
) -> None:
    """Unmounting inside a recursive bind of a shared tree would unmount there, too."""
    mounts = LinuxMounts()
    (shared / "child").mkdir()
    mounts.mount("child", shared / "child", "tmpfs")
    (shared / "child/file").write_text("kept")
    claim(directory)
    (directory / "bind").mkdir()
    mounts.bind(shared, directory / "bind", recursive=True)
    assert (directory / "bind/child/file").read_text() == "kept"
    found = swept()
    assert len(found.mounts) == 2
    assert (shared / "child/file").read_text() == "kept"


def test_a_directory_that_is_not_a_runs_is_refused(
    tmp_path: Path, cgroup_parent: str, host: HostFs, spawn: Spawn
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "file").write_text("kept")
    marked = spawn("sleep", "100", **{RUN_DIR_VARIABLE: str(mine)})
    with pytest.raises(AgentError, match="was not made by nodeshare"):
        sweep(mine, cgroup_parent, host)
    assert (mine / "file").read_text() == "kept"
    assert exists(marked)
    (tmp_path / "link").symlink_to(mine)
    with pytest.raises(AgentError, match="is a symbolic link"):
        sweep(tmp_path / "link", cgroup_parent, host)
    for parent in ("", "/", "kubepods", "../nodeshare", "nodeshare/../kubepods"):
        with pytest.raises(AgentError, match="cgroup parent"):
            sweep(tmp_path / "run", parent, host)


def test_a_file_system_that_hangs_holds_nothing_up(
    directory: Path, swept: Callable[[], Swept], spawn: Spawn
) -> None:
    """A FUSE server that never answers, alive and not ours to kill, with a client stuck in it.

    The client cannot die before the connection is aborted: its request is with the server.
    """
    claim(directory)
    (directory / "fuse").mkdir()
    server = SilentServer(directory / "fuse")
    try:
        stuck = spawn("stat", str(directory / "fuse/file"), **environment(directory))
        server.read_one_request()
        found = swept()
        assert found.remaining == ()
        assert stuck in found.processes
        assert found.mounts == (str(directory / "fuse"),)
        assert not directory.exists()
        assert not exists(stuck)
    finally:
        server.close()


def test_only_what_is_mounted_nowhere_else_is_aborted(
    directory: Path, tmp_path: Path, host: HostFs, swept: Callable[[], Swept]
) -> None:
    claim(directory)
    places = (tmp_path / "elsewhere", directory / "bind", directory / "ours")
    for place in places:
        place.mkdir()
    theirs = SilentServer(places[0])
    ours = SilentServer(places[2])
    try:
        LinuxMounts().bind(places[0], places[1])
        LeftoverMounts(directory, host).abort_connections()
        assert theirs.is_connected()
        assert not ours.is_connected()
        assert len(swept().mounts) == 2
        assert theirs.is_connected()
    finally:
        theirs.close()
        ours.close()
        LinuxMounts().unmount(places[0], detach=True)


class SilentServer:
    """A FUSE server that greets the kernel, takes requests, and answers none."""

    def __init__(self, place: Path) -> None:
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK)
        data = f"fd={self._device},rootmode=40000,user_id=0,group_id=0,allow_other"
        LinuxMounts().mount(f"silent-{secrets.token_hex(3)}", place, "fuse", data=data)
        header = self.read_one_request()
        unique = struct.unpack_from("=Q", header, 8)[0]
        # fuse_out_header, then fuse_init_out: protocol 7.31, and nothing special
        greeting = struct.pack("=IIIIHHII36x", 7, 31, 65536, 0, 12, 9, 65536, 1)
        os.write(self._device, struct.pack("=IiQ", 16 + len(greeting), 0, unique) + greeting)

    def read_one_request(self) -> bytes:
        poller = select.poll()
        poller.register(self._device, select.POLLIN)
        assert poller.poll(5000), "the kernel asks"
        return os.read(self._device, 1 << 20)

    def is_connected(self) -> bool:
        """An aborted connection answers ENODEV, a quiet one EAGAIN."""
        try:
            os.read(self._device, 1 << 20)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True

    def close(self) -> None:
        os.close(self._device)
