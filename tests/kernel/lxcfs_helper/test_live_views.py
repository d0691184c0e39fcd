# SPDX-License-Identifier: Apache-2.0
"""What only a running container can show: its pressure with triggers, its load, its disk."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.hostfs import CGROUP
from tests.fakes.real_container import V2, RealContainer, eventually
from tests.kernel.lxcfs_helper.agent_process import AgentProcess, covered

MakeContainer = Callable[..., RealContainer]

#: Wait for 20 ms of pressure within two seconds, as a program in the container would. (Windows that
#: are no multiple of two seconds need CAP_SYS_RESOURCE.)
_TRIGGER = """
import os, select
watched = os.open("/proc/pressure/cpu", os.O_RDWR | os.O_NONBLOCK)
os.write(watched, b"some 20000 2000000")
poll = select.poll()
poll.register(watched, select.POLLPRI)
print([event for _, event in poll.poll(10000)] == [select.POLLPRI])
"""
_SPIN = "sh -c 'while :; do :; done'"


def start(agent: AgentProcess, container: RealContainer) -> None:
    agent.list_containers(container)
    agent.start()
    eventually(covered(container), "everything attached")


@pytest.mark.skipif(not Path("/proc/pressure/cpu").exists(), reason="the kernel tells no pressure")
def test_pressure_is_the_containers_own_and_triggers_fire(
    agent: AgentProcess, make_container: MakeContainer
) -> None:
    one, quiet = make_container("one", cpus=0.5), make_container("quiet", cpus=0.5)
    agent.list_containers(one, quiet)
    agent.start()
    eventually(covered(one, quiet), "everything attached")
    for _ in range(2):
        one.spawn(_SPIN)  # two want to run, half a CPU is there
    assert one.run("/usr/bin/python3", "-c", _TRIGGER) == "True\n"
    eventually(lambda: total_us(one) > 20_000, "pressure counts")
    assert total_us(quiet) < total_us(one) / 2, "a neighbour's is not shown"
    assert "full avg10=" in one.read("/proc/pressure/memory")


def total_us(container: RealContainer) -> int:
    """For how long somebody waited for a CPU."""
    return int(container.read("/proc/pressure/cpu").splitlines()[0].rpartition("=")[2])


def test_load_counts_who_runs(agent: AgentProcess, make_container: MakeContainer) -> None:
    one = make_container()
    for _ in range(3):
        one.spawn(_SPIN)
    start(agent, one)
    running, _, threads = one.read("/proc/loadavg").split()[3].partition("/")
    assert int(running) == 3
    assert int(threads) >= 4
    assert one.read("/proc/loadavg").split()[4] == "0"
    assert "procs_running 3" in one.read("/proc/stat")


def _disk_of(path: Path) -> str | None:
    """The disk that holds it; None: it is on none, as in a container."""
    number = path.stat().st_dev
    name = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    return name.resolve().name if name.exists() and not (name / "partition").exists() else None


def _is_counted() -> bool:
    """v1 counts input and output only where it throttles, or where BFQ schedules."""
    if V2:
        return "io" in (CGROUP / "cgroup.controllers").read_text().split()
    return any("Read" in file.read_text() for file in (CGROUP / "blkio").glob("blkio.*serviced*"))


@pytest.mark.skipif(not _is_counted(), reason="this kernel counts no container's disk")
def test_disks_count_what_the_container_wrote(
    agent: AgentProcess, make_container: MakeContainer, tmp_path: Path
) -> None:
    disk = _disk_of(tmp_path)
    if disk is None:
        pytest.skip("the test's directory is on no disk of its own")
    one = make_container()
    start(agent, one)
    assert one.read("/proc/diskstats") == ""
    file = shlex.quote(str(tmp_path / "file"))
    one.spawn(f"dd if=/dev/zero of={file} bs=1M count=4 oflag=direct").wait(timeout=20)
    eventually(lambda: sectors_written(one, disk) == 4 << 11, "4 MiB were written")


def sectors_written(container: RealContainer, disk: str) -> int:
    rows = [row.split() for row in container.read("/proc/diskstats").splitlines()]
    return next((int(row[9]) for row in rows if row[2] == disk), 0)
