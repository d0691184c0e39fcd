# SPDX-License-Identifier: Apache-2.0
"""Views in containers that runc made: found through the runtime's socket by the agent's own
command, read, swapped and ejected."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.hostfs import HostFs
from agents.namespaces import NamespaceHelper
from lxcfs_helper.eject import eject
from tests.fakes.real_container import LIMITS_AVAILABLE, eventually
from tests.fakes.runc_container import Kind, RuncContainer
from tests.fakes.runc_node import RuncNode
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


@pytest.fixture
def node(tmp_path: Path, namespaces: NamespaceHelper) -> Iterator[RuncNode]:
    node = RuncNode(tmp_path)
    try:
        yield node
    finally:
        node.close()
        assert not eject(HostFs(), namespaces, node.files).problems


@pytest.mark.parametrize("kind", Kind)
def test_from_the_first_view_to_the_last(node: RuncNode, kind: Kind) -> None:
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


def test_containers_that_share_a_pid_namespace_see_each_its_own(node: RuncNode) -> None:
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
    # By a shell: run by runc itself it ends now and then with 1 and no word, in any container.
    "top": (["sh", "-c", "top -b -n 1; true"], r"MiB Mem : +512\.0 total"),
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


def test_real_programs_see_the_container(node: RuncNode) -> None:
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
