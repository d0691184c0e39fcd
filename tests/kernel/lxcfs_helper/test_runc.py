# SPDX-License-Identifier: Apache-2.0
"""Views in containers that runc made: found through the runtime's socket by the agent's own
command, read, swapped and ejected."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.hostfs import HostFs
from agents.mounts import LinuxMounts
from agents.namespaces import NamespaceHelper
from agents.standin.cri_server import CriServer
from agents.standin.pods import ContainerSpec, ContainerStart, PodSpec, RunningContainer
from lxcfs_helper.eject import eject
from lxcfs_helper.files import ViewFiles, views_directory
from tests.fakes.real_container import LIMITS_AVAILABLE, eventually
from tests.fakes.runc_container import Kind, RuncContainer
from tests.fakes.runtime import FakeRuntime
from tests.kernel.lxcfs_helper.agent_process import (
    LoopingReader,
    attached,
    covered,
    exactly,
    processors,
    total_kib,
    total_kib_of_host,
    views,
)

MIB = 1 << 20
HOST_CPUS = os.cpu_count() or 1
ONLINE = "/sys/devices/system/cpu/online"
pytestmark = [
    pytest.mark.skipif(not LIMITS_AVAILABLE, reason="no memory and cpu controllers here"),
    pytest.mark.skipif(HOST_CPUS < 2, reason="one CPU cannot be limited to one"),
]


class Runtime(FakeRuntime):
    """Lists runc's containers."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[RuncContainer] = []

    def containers(self) -> tuple[RunningContainer, ...]:
        return tuple(_running(one) for one in self.made if one.pid)


def _running(one: RuncContainer) -> RunningContainer:
    spec = ContainerSpec(one.name, one.command)
    pod = PodSpec(one.name, [spec], namespace="jupyter")
    start = ContainerStart(one.id, pod, f"uid-{one.name}", spec)
    return RunningContainer(start, one.pid, f"/{one.parent}/{one.id}", time.time_ns())


class Node:
    """The socket of a runtime with runc's containers behind it, and the agent as a command."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._parent = f"nodeshare-test-{secrets.token_hex(6)}"
        self.runtime = Runtime()
        self._server = CriServer(directory / "cri.sock", self.runtime)
        self._server.start()
        self._agent: subprocess.Popen[bytes] | None = None
        self._config = directory / "config.yaml"
        ports = "{gpu_plugin: 0, fuse_mounter: 0, lxcfs_helper: 0}"
        self._config.write_text(
            f"node:\n  run_dir: {directory}/run\n  state_dir: {directory}/state\n"
            f"  cri_socket: {directory}/cri.sock\n"
            f"  metrics: {{address: 127.0.0.1, ports: {ports}}}\n  status: {{ports: {ports}}}\n"
            "lxcfs_helper: {heartbeat: 100ms, poll: 100ms}\n"
        )

    def make(self, name: str, **fields: object) -> RuncContainer:
        one = RuncContainer(name, self._parent, **fields)  # type: ignore[arg-type]  # its own fields
        self.runtime.made.append(one)
        one.create()
        one.start()
        return one

    def start(self) -> None:
        log = self._directory / "log"
        with log.open("wb") as output:
            self._agent = subprocess.Popen(
                self._command("run", "view"), stdout=output, stderr=output
            )

    def kill(self) -> None:
        if self._agent is not None:
            self._agent.kill()
            self._agent.wait(timeout=10)
            self._agent = None

    def eject(self) -> str:
        done = subprocess.run(
            self._command("view", "eject"), capture_output=True, text=True, timeout=30, check=True
        )
        return done.stdout

    @property
    def files(self) -> ViewFiles:
        return ViewFiles(views_directory(self._directory / "run"), LinuxMounts(), HostFs().proc)

    def close(self) -> None:
        self.kill()
        for one in self.runtime.made:
            one.remove()
        self._server.stop()

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "agents", *words, "--config", str(self._config)]


@pytest.fixture
def node(tmp_path: Path, namespaces: NamespaceHelper) -> Iterator[Node]:
    node = Node(tmp_path)
    try:
        yield node
    finally:
        node.close()
        assert not eject(HostFs(), namespaces, node.files).problems


@pytest.mark.parametrize("kind", Kind)
def test_from_the_first_view_to_the_last(node: Node, kind: Kind) -> None:
    one = node.make("one", kind=kind)
    node.start()
    eventually(covered(one), "everything attached")
    assert one.run("grep", "MemTotal", "/proc/meminfo").split()[1] == str(256 * 1024)
    assert one.run("cat", ONLINE) == "0\n"
    for path in ("/proc/meminfo", ONLINE):
        assert "Read-only file system" in one.run("sh", "-c", f"echo nonsense >{path}")

    checks = {"/proc/cpuinfo": processors(1), ONLINE: exactly("0\n"), "/proc/stat": processors(1)}
    with LoopingReader(one, checks) as reader:
        one.update(memory=512 * MIB)
        eventually(lambda: total_kib(one) == 512 * 1024, "resized in place")
        node.kill()
        node.files.unmount()
        before = _places(one)
        node.start()
        eventually(lambda: not before & _places(one), "every mount replaced")
        eventually(covered(one), "everything attached")
    assert reader.problems == []

    node.kill()
    one.from_outside("umount", "/proc/stat")
    assert "mounts taken out of" in node.eject()
    assert attached(one) == []
    assert total_kib(one) == total_kib_of_host()


def _places(one: RuncContainer) -> set[tuple[str, tuple[int, int]]]:
    """What of ours stands where; the kernel's own files are the same for every agent."""
    return {(view.mount_point, view.device) for view in views(one) if view.fstype == "tmpfs"}


def test_containers_that_share_a_pid_namespace_see_each_its_own(node: Node) -> None:
    sandbox = node.make("sandbox")
    one = node.make("one", memory=128 * MIB, pid_namespace_of=sandbox.pid)
    two = node.make("two", memory=512 * MIB, cpus=0, pid_namespace_of=sandbox.pid)
    node.start()
    eventually(covered(one), "everything attached")
    eventually(lambda: "/proc/meminfo" in attached(two), "memory attached")
    assert one.run("cat", "/proc/1/comm") == two.run("cat", "/proc/1/comm") == "sleep\n"
    assert (total_kib(one), total_kib(two)) == (128 * 1024, 512 * 1024)
    assert one.run("getconf", "_NPROCESSORS_ONLN").strip() == "1"
    assert two.run("getconf", "_NPROCESSORS_ONLN").strip() == str(HOST_CPUS)


PYTHON = "/usr/bin/python3"
READERS = {
    "free": (["free", "-m"], "Mem: +512 "),
    "top": (["top", "-b", "-n", "1"], r"MiB Mem : +512\.0 total"),
    "vmstat": (["vmstat", "-s"], " 524288 K total memory"),
    "lscpu": (["lscpu"], r"CPU\(s\): +1\nOn-line CPU\(s\) list: +0\n"),
    "getconf": (["getconf", "-a"], r"(?s)_NPROCESSORS_CONF +1\n.*_NPROCESSORS_ONLN +1\n"),
    "os": ([PYTHON, "-c", "import os; print(os.cpu_count())"], "^1\n$"),
    "psutil": (
        [PYTHON, "-c", "import psutil as p; print(p.cpu_count(), p.virtual_memory().total)"],
        f"^1 {512 * MIB}\n$",
    ),
    "joblib": ([PYTHON, "-c", "import joblib; print(joblib.cpu_count())"], "^1\n$"),
    "numpy": (
        [
            PYTHON,
            "-c",
            "import numpy, threadpoolctl as t\n"
            "print([one['num_threads'] for one in t.threadpool_info()])",
        ],
        r"^\[1\]\n$",
    ),
    # They count by affinity, which no file changes: a quota is seen by those alone that are told.
    "nproc": (["nproc"], f"^{HOST_CPUS}\n$"),
    "nproc, told": (["env", "OMP_NUM_THREADS=1", "nproc"], "^1\n$"),
    "node": (
        ["node", "-p", "os.cpus().length + ' ' + os.totalmem()"],
        f"^1 {512 * MIB}\n$",
    ),
    "java": (
        ["java", "-XshowSettings:system", "-version"],
        r"(?s)Effective CPU Count: 1\n.*Memory Limit: 512\.00M",
    ),
}
#: What is asked only where the machine has it.
OPTIONAL = ("node", "java")


def test_real_programs_see_the_container(node: Node) -> None:
    one = node.make("one", memory=512 * MIB)
    node.start()
    eventually(covered(one), "everything attached")
    wrong = {}
    for name, (command, expected) in READERS.items():
        if name in OPTIONAL and shutil.which(command[0]) is None:
            continue
        said = one.run(*command)
        if re.search(expected, said) is None:
            wrong[name] = said
    assert wrong == {}
    rows = [line.split() for line in one.run("vmstat", "1", "2").splitlines()]
    assert all(0 <= int(row[14]) <= 100 for row in rows[2:]), "a share of time that was idle"
    assert re.search(r"512M\]|/512M", one.screen("htop"))
    assert "load average" in one.run("uptime")
