# SPDX-License-Identifier: Apache-2.0
"""Directories go when nobody holds them, and not a moment sooner."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from gpu_plugin.allocation import Share, SharedDevice
from gpu_plugin.cleanup import Cleaner, held_by_pods, mounted_names
from gpu_plugin.identity import Allocation, Allocations

RESOURCE = "nodeshare/gpu-memory"
GRACE_S = 100.0
SECOND = 1_000_000_000


def share(*numbers: int) -> Share:
    return Share(RESOURCE, (SharedDevice("GPU-1", "V100", None, numbers, 1),), simulated=False)


def ids(*numbers: int) -> frozenset[str]:
    return frozenset(f"GPU-1::{number}" for number in numbers)


class Processes:
    """A `/proc` of processes with mounts."""

    def __init__(self, proc: Path) -> None:
        self.proc = proc
        proc.mkdir()
        (proc / "version").touch()

    def add(self, pid: int, roots: Iterable[str], namespace: str | None = None) -> None:
        directory = self.proc / str(pid)
        (directory / "ns").mkdir(parents=True)
        (self.proc / (namespace or f"namespace{pid}")).touch()
        (directory / "ns/mnt").symlink_to(self.proc / (namespace or f"namespace{pid}"))
        (directory / "root").symlink_to("/")
        lines = [
            f"{number} 1 8:1 {root} /run/nodeshare/gpu ro - ext4 /dev/sda1 rw"
            for number, root in enumerate(roots, 10)
        ]
        (directory / "mountinfo").write_text("\n".join(lines) + "\n")

    def end(self, pid: int) -> None:
        (self.proc / str(pid) / "mountinfo").unlink()


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    return Processes(tmp_path / "proc")


@pytest.fixture
def allocations(tmp_path: Path) -> Allocations:
    made = Allocations(tmp_path / "gpu")
    made.prepare()
    return made


@pytest.fixture
def cleaner(allocations: Allocations, processes: Processes) -> Cleaner:
    return Cleaner(allocations, processes.proc, grace_s=GRACE_S)


def test_an_unheld_directory_goes_after_the_grace(
    cleaner: Cleaner, allocations: Allocations
) -> None:
    name = allocations.make(share(0)).name
    assert cleaner.sweep({}, 1000.0) == ()
    assert cleaner.sweep({}, 1000.0 + GRACE_S - 1) == ()
    assert cleaner.sweep({}, 1000.0 + GRACE_S) == (name,)
    assert allocations.names() == set()


def test_whoever_holds_it_starts_the_grace_anew(
    cleaner: Cleaner, allocations: Allocations, processes: Processes
) -> None:
    directory = allocations.make(share(0, 1))
    cleaner.sweep({}, 0.0)
    assert cleaner.sweep({RESOURCE: [ids(0, 1)]}, GRACE_S) == ()
    processes.add(7, ["/other", f"/gpu/containers/{directory.name}"])
    assert cleaner.sweep({}, 2 * GRACE_S) == ()
    processes.end(7)
    assert cleaner.sweep({}, 3 * GRACE_S) == ()
    assert cleaner.sweep({}, 4 * GRACE_S) == (directory.name,)


def test_other_units_do_not_hold_it(cleaner: Cleaner, allocations: Allocations) -> None:
    name = allocations.make(share(0, 1)).name
    held = {RESOURCE: [ids(0), ids(1), ids(0, 1, 2)], "nodeshare/other": [ids(0, 1)]}
    cleaner.sweep(held, 0.0)
    assert cleaner.sweep(held, GRACE_S) == (name,)


def test_a_process_that_cannot_be_looked_at_keeps_everything(
    cleaner: Cleaner, allocations: Allocations, processes: Processes
) -> None:
    allocations.make(share(0))
    cleaner.sweep({}, 0.0)
    processes.add(8, [])
    (processes.proc / "8" / "mountinfo").unlink()
    (processes.proc / "8" / "mountinfo").mkdir()  # any error that is not "it ended"
    (processes.proc / "8" / "cgroup").write_text("0::/kubepods/besteffort/pod1234/abcd\n")
    assert cleaner.sweep({}, GRACE_S) == ()
    (processes.proc / "8" / "mountinfo").rmdir()
    assert cleaner.sweep({}, 2 * GRACE_S) == ()  # what was seen before counts no more
    assert len(cleaner.sweep({}, 3 * GRACE_S)) == 1


def test_a_host_process_that_lets_nobody_look_is_in_nobodys_way(
    cleaner: Cleaner, allocations: Allocations, processes: Processes
) -> None:
    name = allocations.make(share(0)).name
    processes.add(1, [])
    (processes.proc / "1" / "mountinfo").unlink()
    (processes.proc / "1" / "mountinfo").mkdir()
    (processes.proc / "1" / "cgroup").write_text("0::/init.scope\n")
    cleaner.sweep({}, 0.0)
    assert cleaner.sweep({}, GRACE_S) == (name,)


def test_halves_of_a_crash_go_but_a_directory_without_a_record_only_when_no_pod_is_left(
    cleaner: Cleaner, allocations: Allocations
) -> None:
    without_directory = allocations.make(share(0)).name
    without_record = allocations.make(share(1)).name
    for path in (allocations.containers / without_directory).iterdir():
        path.unlink()
    (allocations.containers / without_directory).rmdir()
    (allocations.records / f"{without_record}.json").unlink()
    held = {RESOURCE: [ids(7)]}
    cleaner.sweep(held, 0.0)
    assert cleaner.sweep(held, GRACE_S) == (without_directory,)
    cleaner.sweep({}, GRACE_S)
    assert cleaner.sweep({}, 2 * GRACE_S) == (without_record,)


@pytest.mark.loud
def test_a_directory_with_more_in_it_than_files_stays(
    cleaner: Cleaner, allocations: Allocations
) -> None:
    directory = allocations.make(share(0))
    (directory / "folder").mkdir()
    cleaner.sweep({}, 0.0)
    assert cleaner.sweep({}, GRACE_S) == ()
    assert (directory / "folder").exists()


def allocation(name: str, made_at_s: int, *numbers: int) -> Allocation:
    return Allocation(name, RESOURCE, {"GPU-1": numbers}, made_at_s * SECOND, 1, 1)


def test_of_the_same_units_the_newest_admission_is_held() -> None:
    found = [
        allocation("former", 0, 0, 1),
        allocation("init", 1000, 0, 1),
        allocation("main", 1001, 0, 1),
        allocation("other", 1001, 2),
    ]
    assert held_by_pods(found, {RESOURCE: [ids(0, 1)]}) == {"init", "main"}
    assert held_by_pods(found, {}) == set()


def test_one_look_per_mount_namespace(processes: Processes) -> None:
    processes.add(1, ["/gpu/containers/a"], namespace="shared")
    processes.add(2, ["/gpu/containers/b"], namespace="shared")
    processes.add(3, ["/gpu/containers/c", "/gpu/containers/d/deeper"])
    (processes.proc / "4").mkdir()  # ended: nothing in it
    names = frozenset("abcd")
    found = mounted_names(processes.proc, names)
    assert found is not None
    assert "c" in found
    assert len(found & {"a", "b"}) == 1
    assert "d" not in found
