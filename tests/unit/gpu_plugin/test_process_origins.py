# SPDX-License-Identifier: Apache-2.0
"""What is read of a process, how long it is believed, and what makes it another process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agents.container_cgroups import ContainerCgroup, Outside, Place
from agents.hostfs import HostFs
from agents.processes import ProcessKey
from gpu_plugin.accounting import Origin
from gpu_plugin.process_origins import ProcessOrigins

POD, ID = "8a5a1b1c-52f4-4d2b-9c1e-0123456789ab", "ab" * 32
CGROUP = f"/kubepods/pod{POD}/{ID}"
CONTAINER = ContainerCgroup(POD, ID, CGROUP)


class Processes:
    """A `/proc`, and a clock for those who look at it."""

    def __init__(self, proc: Path) -> None:
        self.proc = proc
        self.now = 1000.0
        self.origins = ProcessOrigins(HostFs(proc=proc), lambda: self.now)

    def put(
        self, pid: int, cgroup: str, *, command: str = "python", start: int = 7, state: str = "S"
    ) -> None:
        directory = self.proc / str(pid)
        directory.mkdir(exist_ok=True)
        self._stat(directory, pid, command, start, state, threads=2)
        (directory / "cgroup").write_text(f"0::{cgroup}\n")

    def put_thread(self, pid: int, thread: int, cgroup: str, state: str = "S") -> None:
        directory = self.proc / f"{pid}/task/{thread}"
        directory.mkdir(parents=True)
        self._stat(directory, thread, "python", 9, state, threads=2)
        (directory / "cgroup").write_text(f"0::{cgroup}\n")

    def _stat(
        self, directory: Path, pid: int, command: str, start: int, state: str, threads: int
    ) -> None:
        fields = [state, *["0"] * 16, str(threads), "0", str(start), "0"]
        (directory / "stat").write_text(f"{pid} ({command}) {' '.join(fields)}\n")

    def place(self, pid: int) -> Place | None:
        found = self.origins.of([pid]).get(pid)
        return None if found is None else found.place


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    return Processes(tmp_path)


def test_who_and_where(processes: Processes) -> None:
    processes.put(5, CGROUP, command="a (b) c")
    processes.put(6, "/system.slice/x.service")
    assert processes.origins.of([5, 6, 7]) == {
        5: Origin(ProcessKey(5, 7), CONTAINER, "a (b) c"),
        6: Origin(ProcessKey(6, 7), Outside.HOST, "python"),
    }


def test_a_cgroup_is_read_once_and_again_after_a_while(processes: Processes) -> None:
    processes.put(5, CGROUP)
    assert processes.place(5) == CONTAINER
    (processes.proc / "5/cgroup").write_text("0::/elsewhere\n")
    processes.now += 4
    assert processes.place(5) == CONTAINER
    processes.now += 2
    assert processes.place(5) is Outside.HOST


def test_a_host_process_may_soon_be_a_containers(processes: Processes) -> None:
    """A runtime starts it outside, and moves it there before its program runs."""
    processes.put(5, "/system.slice/containerd.service", command="runc:[2:INIT]")
    assert processes.place(5) is Outside.HOST
    processes.put(5, CGROUP)
    processes.now += 1
    assert processes.place(5) == CONTAINER


def test_a_pid_of_another_process_is_looked_at_anew(processes: Processes) -> None:
    processes.put(5, CGROUP)
    assert processes.place(5) == CONTAINER
    processes.put(5, "/", start=8)
    assert processes.place(5) is Outside.HOST


def test_a_new_program_has_a_new_name(processes: Processes) -> None:
    processes.put(5, CGROUP, command="sh")
    processes.origins.of([5])
    processes.put(5, CGROUP, command="python")
    assert processes.origins.of([5])[5].command == "python"


def test_ended_and_unreadable_are_unknown(processes: Processes) -> None:
    processes.put(5, CGROUP)
    (processes.proc / "5/cgroup").unlink()
    (processes.proc / "5/cgroup").mkdir()
    processes.put(6, CGROUP)
    assert processes.place(6) == CONTAINER
    shutil.rmtree(processes.proc / "6")
    (processes.proc / "7").mkdir()
    (processes.proc / "7/stat").write_text("cut")
    assert processes.origins.of([5, 6, 7, 8]) == {}


def test_without_its_first_thread_the_others_tell(processes: Processes) -> None:
    processes.put(5, "/", state="Z")
    processes.put_thread(5, 5, "/", state="Z")
    processes.put_thread(5, 6, CGROUP)
    assert processes.place(5) == CONTAINER


def test_without_any_thread_nobody_tells(processes: Processes) -> None:
    processes.put(5, CGROUP, state="Z")
    processes.put_thread(5, 5, "/", state="Z")
    assert processes.place(5) is None


def test_the_node_may_be_a_container(processes: Processes) -> None:
    node = f"/docker/{'ef' * 32}"
    (processes.proc / "self").mkdir()
    (processes.proc / "self/cgroup").write_text(f"0::{node}/init.scope\n")
    processes.put(5, f"{node}{CGROUP}")
    processes.put(6, f"{node}/kubelet")
    assert processes.place(5) == ContainerCgroup(POD, ID, f"{node}{CGROUP}")
    assert processes.place(6) is Outside.HOST
