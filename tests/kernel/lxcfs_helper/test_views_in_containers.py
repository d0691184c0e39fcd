# SPDX-License-Identifier: Apache-2.0
"""Views in real containers: what programs see, across the agent's death, changes and the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from agents import mountinfo
from agents.config import NodeConfig
from agents.hostfs import HostFs
from agents.mounts import LinuxMounts
from agents.namespaces import NamespaceHelper
from lxcfs_helper.eject import eject
from lxcfs_helper.explain import show
from lxcfs_helper.files import ViewFiles, views_directory
from tests.fakes.real_container import RealContainer, eventually

MIB = 1 << 20
HOST_CPUS = os.cpu_count() or 1
pytestmark = pytest.mark.skipif(HOST_CPUS < 2, reason="one CPU cannot be limited to one")

MakeContainer = Callable[..., RealContainer]


class AgentProcess:
    """The agent, started and killed at will."""

    def __init__(self, directory: Path) -> None:
        self.run_dir = directory / "run"
        self._listing = directory / "listing.json"
        self._process: subprocess.Popen[bytes] | None = None
        self.list_containers()

    def list_containers(self, *containers: RealContainer, namespace: str = "jupyter") -> None:
        rows = [
            {"id": one.id, "pod": one.name, "namespace": namespace, "pid": one.pid}
            for one in containers
        ]
        new = self._listing.with_suffix(".new")
        new.write_text(json.dumps(rows))
        new.rename(self._listing)

    def start(self) -> None:
        script = Path(__file__).with_name("view_agent.py")
        argv = [sys.executable, str(script), str(self._listing), str(self.run_dir)]
        self._process = subprocess.Popen(argv)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(timeout=10)
            self._process = None

    @property
    def files(self) -> ViewFiles:
        return ViewFiles(views_directory(self.run_dir), LinuxMounts(), HostFs().proc)


@pytest.fixture
def agent(tmp_path: Path, namespaces: NamespaceHelper) -> Iterator[AgentProcess]:
    process = AgentProcess(tmp_path)
    try:
        yield process
    finally:
        process.kill()
        done = eject(HostFs(), namespaces, process.files)
        assert not done.problems


def views(container: RealContainer) -> list[mountinfo.MountEntry]:
    """The mounts of any agent that are on top of their places in a container."""
    stacks = mountinfo.by_place(mountinfo.read(HostFs().proc, container.pid)).values()
    tops = [stack[-1] for stack in stacks]
    return [e for e in tops if e.source.startswith("nodeshare-views:") and e.root != "/"]


def attached(container: RealContainer) -> list[str]:
    """Where they are."""
    return sorted(entry.mount_point for entry in views(container))


def total_kib(container: RealContainer) -> int:
    return int(container.read("/proc/meminfo").split()[1])


def free_kib(container: RealContainer) -> int:
    return int(container.read("/proc/meminfo").splitlines()[1].split()[1])


def has_less_free(container: RealContainer, kib: int) -> bool:
    return free_kib(container) < kib


def has_more_free(container: RealContainer, kib: int) -> bool:
    return free_kib(container) > kib


def busy_ticks(container: RealContainer) -> int:
    fields = container.read("/proc/stat").split()
    return int(fields[1]) + int(fields[3])


def covered(container: RealContainer) -> Callable[[], bool]:
    return lambda: len(attached(container)) == 6


def test_programs_inside_see_the_limits(agent: AgentProcess, make_container: MakeContainer) -> None:
    one = make_container(memory=256 * MIB, cpus=1.0)
    agent.list_containers(one)
    agent.start()
    eventually(covered(one), "all six files attached")

    assert one.run("free", "-m").splitlines()[1].split()[1] == "256"
    count = "import os; print(os.cpu_count(), os.sysconf('SC_NPROCESSORS_CONF'))"
    assert one.run("/usr/bin/python3", "-c", count).split() == ["1", "1"]
    assert one.run("grep", "-c", "^processor", "/proc/cpuinfo").strip() == "1"
    assert one.run("grep", "-c", "^cpu[0-9]", "/proc/stat").strip() == "1"
    assert one.run("cat", "/sys/devices/system/cpu/online").strip() == "0"
    assert one.run("lscpu", "--parse=CPU").splitlines()[-1] == "0"
    top = one.run("top", "-b", "-n", "1")
    assert "256.0 total" in top or "262144 total" in top
    # Tools that compute differences get sane ones.
    idle = int(one.run("vmstat", "1", "2").splitlines()[-1].split()[14])
    assert 0 <= idle <= 100


def test_what_a_container_sees_is_explained(
    agent: AgentProcess, make_container: MakeContainer
) -> None:
    one = make_container(memory=256 * MIB, cpus=1.0)
    agent.list_containers(one)
    agent.start()
    eventually(covered(one), "all six files attached")
    page = show(NodeConfig(), str(one.pid))
    rows = {line.split("  ")[1]: line.split() for line in page.splitlines() if "  " in line}
    assert rows["MemTotal"][1:3] == ["256", "MiB"]
    assert rows["CPUs online"][2:] == ["1", str(HOST_CPUS)]
    assert rows["processors in cpuinfo"][3:] == ["1", str(HOST_CPUS)]
    assert rows["memory"][1:4] == ["256", "MiB", f"/{one.parent}/{one.id}"]
    assert rows["CPU quota"][2:] == ["1", f"/{one.parent}/{one.id}"]


def test_use_shows_within_a_heartbeat(agent: AgentProcess, make_container: MakeContainer) -> None:
    one = make_container(memory=256 * MIB)
    agent.list_containers(one)
    agent.start()
    eventually(covered(one), "all six files attached")
    before, busy_before = free_kib(one), busy_ticks(one)
    one.hold(64)
    eventually(lambda: before - free_kib(one) > 60 * 1024, "64 MiB less are free")
    eventually(lambda: busy_ticks(one) > busy_before, "CPU time was used")


def test_a_view_can_be_neither_written_nor_unmounted_by_the_container(
    agent: AgentProcess, make_container: MakeContainer
) -> None:
    one = make_container()
    agent.list_containers(one)
    agent.start()
    eventually(covered(one), "all six files attached")
    assert "Read-only file system" in one.run("sh", "-c", "echo nonsense > /proc/meminfo")
    assert "Read-only file system" in one.run(
        "sh", "-c", "echo 0-99 > /sys/devices/system/cpu/online"
    )
    # Root as a container runtime makes it: without CAP_SYS_ADMIN.
    said = one.run("setpriv", "--bounding-set", "-sys_admin", "umount", "/proc/meminfo")
    assert "superuser" in said or "permitted" in said
    assert covered(one)()
    assert total_kib(one) == 256 * 1024


def test_readers_never_notice_that_the_agent_dies_and_comes_back(
    agent: AgentProcess, make_container: MakeContainer, soak: bool
) -> None:
    one = make_container(memory=256 * MIB)
    agent.list_containers(one)
    agent.start()
    eventually(covered(one), "all six files attached")
    reader = LoopingReader(one)
    with reader:
        for _ in range(100 if soak else 5):
            reads, free = reader.reads, free_kib(one)
            agent.kill()
            eventually(partial(reader.has_read, reads + 200), "reads while nobody is there")
            mounts = _places(one)
            agent.start()
            holding = one.hold(4)
            eventually(partial(has_less_free, one, free - 4096), "fresh values again")
            holding.kill()
            eventually(partial(has_more_free, one, free - 4096), "and fresh again")
            assert _places(one) == mounts, "adopted, not replaced"
    assert reader.problems == []


def test_a_new_tmpfs_replaces_what_an_earlier_one_left(
    agent: AgentProcess, make_container: MakeContainer
) -> None:
    one = make_container(memory=256 * MIB)
    agent.list_containers(one)
    agent.start()
    eventually(covered(one), "all six files attached")
    reader = LoopingReader(one)
    with reader:
        agent.kill()
        agent.files.unmount()  # as after the loss of an agent's own mount namespace
        before = _places(one)
        agent.start()
        eventually(lambda: not before & _places(one), "every mount replaced")
        eventually(covered(one), "all six files attached")
    assert reader.problems == []


def test_changed_limits_are_shown_and_lifted_limits_show_the_host(
    agent: AgentProcess, make_container: MakeContainer
) -> None:
    one = make_container(memory=256 * MIB, cpus=1.0)
    agent.list_containers(one)
    agent.start()
    eventually(covered(one), "all six files attached")
    one.limit(memory=512 * MIB)
    eventually(lambda: total_kib(one) == 512 * 1024, "the new memory limit")
    one.limit(cpus=0)
    eventually(lambda: attached(one) == ["/proc/meminfo"], "CPU views taken away")
    assert (
        one.read("/sys/devices/system/cpu/online")
        == Path("/sys/devices/system/cpu/online").read_text()
    )
    one.limit(cpus=0.5)
    eventually(covered(one), "CPU views back")
    assert one.read("/sys/devices/system/cpu/online") == "0\n"


def test_a_lost_mount_is_put_back(agent: AgentProcess, make_container: MakeContainer) -> None:
    one = make_container()
    agent.list_containers(one)
    agent.start()
    eventually(covered(one), "all six files attached")
    one.run("umount", "/proc/stat")
    eventually(covered(one), "the mount is back", timeout_s=20)


def test_a_container_that_is_excluded_later_gets_the_host_back(
    agent: AgentProcess, make_container: MakeContainer
) -> None:
    one = make_container()
    agent.list_containers(one)
    agent.start()
    eventually(covered(one), "all six files attached")
    agent.list_containers(one, namespace="kube-system")
    eventually(lambda: attached(one) == [], "everything taken away")
    assert total_kib(one) > 256 * 1024


def test_containers_come_and_go_while_they_are_being_covered(
    agent: AgentProcess, make_container: MakeContainer
) -> None:
    agent.start()
    stays = make_container("stays")
    for number in range(4):
        goes = make_container(f"goes-{number}")
        agent.list_containers(stays, goes)
        if number % 2:
            eventually(partial(attached, goes), "at least one attached")
        goes.kill()
    agent.list_containers(stays)
    eventually(covered(stays), "the one that stays is covered")
    eventually(
        lambda: os.listdir(agent.files.directory) == [stays.id], "files of the others are removed"
    )


def test_eject_leaves_nothing(
    agent: AgentProcess, make_container: MakeContainer, namespaces: NamespaceHelper
) -> None:
    one, two = make_container("one"), make_container("two")
    agent.list_containers(one, two)
    agent.start()
    eventually(lambda: covered(one)() and covered(two)(), "both covered")
    agent.kill()
    done = eject(HostFs(), namespaces, agent.files)
    assert (done.mounts >= 12, done.problems) == (True, ())
    for container in (one, two):
        entries = mountinfo.read(HostFs().proc, container.pid)
        assert not [e for e in entries if e.source == agent.files.source]
        assert total_kib(container) == total_kib_of_host()
    assert not views_directory(agent.run_dir).exists()


def total_kib_of_host() -> int:
    return int(Path("/proc/meminfo").read_text().split()[1])


def _places(container: RealContainer) -> set[tuple[int, str, tuple[int, int]]]:
    """What stands where: the kernel uses numbers of mounts again, so they say little alone."""
    return {(entry.mount_id, entry.mount_point, entry.device) for entry in views(container)}


class LoopingReader:
    """Reads meminfo over and over, opened anew and kept open; notes what is not whole."""

    def __init__(self, container: RealContainer) -> None:
        self.problems: list[str] = []
        self.reads = 0
        self._path = Path(f"/proc/{container.pid}/root/proc/meminfo")
        self._expected = total_kib(container)
        self._thread = threading.Thread(target=self._loop)
        self._stop = False

    def __enter__(self) -> LoopingReader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join(timeout=10)

    def has_read(self, times: int) -> bool:
        return self.reads > times

    def _loop(self) -> None:
        kept = os.open(self._path, os.O_RDONLY)
        try:
            while not self._stop:
                self._check(os.pread(kept, 65536, 0).decode())
                self._check(self._path.read_text())
                self.reads += 1
        except OSError as error:
            self.problems.append(str(error))
        finally:
            os.close(kept)

    def _check(self, text: str) -> None:
        lines = text.splitlines()
        try:
            values = {line.split(":")[0]: int(line.split()[1]) for line in lines}
            whole = values["MemTotal"] == self._expected and len(values) == len(lines) > 30
            if not whole or values["MemFree"] > values["MemTotal"] or "DirectMap4k" in values:
                self.problems.append(text)
        except (ValueError, IndexError, KeyError):
            self.problems.append(text)
