# SPDX-License-Identifier: Apache-2.0
"""Directories go when nobody holds them, and not a moment sooner."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from gpu_plugin.allocation import Share, SharedDevice
from gpu_plugin.carriers import home_of
from gpu_plugin.cleanup import Cleaner, held_by_pods, mounted_names
from gpu_plugin.identity import Allocation, Allocations, digest
from gpu_plugin.mismatch import MismatchKind

RESOURCE = "nodeshare/gpu-memory"
GRACE_S = 100.0
SECOND = 1_000_000_000


def share(*numbers: int) -> Share:
    return Share(RESOURCE, (SharedDevice("GPU-1", "V100", None, numbers, 1),), simulated=False)


def ids(*numbers: int) -> frozenset[str]:
    return frozenset(f"GPU-1::{number}" for number in numbers)


class Processes:
    """A `/proc` of processes with mounts. `directory` is that of the allocations' directories."""

    def __init__(self, proc: Path, directory: Path) -> None:
        self.proc, self.directory = proc, directory
        proc.mkdir()
        (proc / "version").touch()
        directory.mkdir(parents=True, exist_ok=True)
        self.home = home_of(directory)

    def add(self, pid: int, roots: Iterable[str], namespace: str | None = None) -> None:
        directory = self.proc / str(pid)
        (directory / "ns").mkdir(parents=True)
        (self.proc / (namespace or f"namespace{pid}")).touch()
        (directory / "ns/mnt").symlink_to(self.proc / (namespace or f"namespace{pid}"))
        process_root = self.proc / f"root-{namespace or pid}"
        process_root.mkdir(exist_ok=True)
        (directory / "root").symlink_to(process_root)
        lines = [self._mount(process_root, root, f"{pid}-{n}") for n, root in enumerate(roots)]
        (directory / "mountinfo").write_text("\n".join(lines) + "\n")

    def _mount(self, process_root: Path, root: str, number: str) -> str:
        """As the kernel would show it, and as the process would find it there."""
        place = f"/run/{number}"
        (process_root / "run").mkdir(parents=True, exist_ok=True)
        (self.directory / Path(root).name).mkdir(exist_ok=True)
        (process_root / place[1:]).symlink_to(self.directory / Path(root).name)
        (major, minor), full = self.home.device, f"{self.home.root}{root}"
        return f"7 1 {major}:{minor} {full} {place} ro - ext4 /dev/sda1 rw"

    def end(self, pid: int) -> None:
        (self.proc / str(pid) / "mountinfo").unlink()


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    return Processes(tmp_path / "proc", tmp_path / "gpu/containers")


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
    assert cleaner.sweep({}, 1000.0).removed == ()
    assert cleaner.sweep({}, 1000.0 + GRACE_S - 1).removed == ()
    assert cleaner.sweep({}, 1000.0 + GRACE_S).removed == (name,)
    assert allocations.names() == set()


def test_whoever_holds_it_starts_the_grace_anew(
    cleaner: Cleaner, allocations: Allocations, processes: Processes
) -> None:
    directory = allocations.make(share(0, 1))
    cleaner.sweep({}, 0.0)
    assert cleaner.sweep({RESOURCE: [ids(0, 1)]}, GRACE_S).removed == ()
    processes.add(7, ["/other", f"/{directory.name}"])
    assert cleaner.sweep({}, 2 * GRACE_S).removed == ()
    processes.end(7)
    assert cleaner.sweep({}, 3 * GRACE_S).removed == ()
    assert cleaner.sweep({}, 4 * GRACE_S).removed == (directory.name,)


def test_other_units_do_not_hold_it(cleaner: Cleaner, allocations: Allocations) -> None:
    name = allocations.make(share(0, 1)).name
    held = {RESOURCE: [ids(0), ids(1), ids(0, 1, 2)], "nodeshare/other": [ids(0, 1)]}
    cleaner.sweep(held, 0.0)
    assert cleaner.sweep(held, GRACE_S).removed == (name,)


def test_a_process_that_cannot_be_looked_at_keeps_everything(
    cleaner: Cleaner, allocations: Allocations, processes: Processes
) -> None:
    allocations.make(share(0))
    cleaner.sweep({}, 0.0)
    processes.add(8, [])
    (processes.proc / "8" / "mountinfo").unlink()
    (processes.proc / "8" / "mountinfo").mkdir()  # any error that is not "it ended"
    (processes.proc / "8" / "cgroup").write_text("0::/kubepods/besteffort/pod1234/abcd\n")
    assert cleaner.sweep({}, GRACE_S).removed == ()
    (processes.proc / "8" / "mountinfo").rmdir()
    assert cleaner.sweep({}, 2 * GRACE_S).removed == ()  # what was seen before counts no more
    assert len(cleaner.sweep({}, 3 * GRACE_S).removed) == 1


def test_a_host_process_that_lets_nobody_look_is_in_nobodys_way(
    cleaner: Cleaner, allocations: Allocations, processes: Processes
) -> None:
    name = allocations.make(share(0)).name
    processes.add(1, [])
    (processes.proc / "1" / "mountinfo").unlink()
    (processes.proc / "1" / "mountinfo").mkdir()
    (processes.proc / "1" / "cgroup").write_text("0::/init.scope\n")
    cleaner.sweep({}, 0.0)
    assert cleaner.sweep({}, GRACE_S).removed == (name,)


def test_halves_of_a_crash_go_but_not_what_a_pod_holds(
    cleaner: Cleaner, allocations: Allocations
) -> None:
    without_directory = allocations.make(share(0)).name
    without_record = allocations.make(share(1)).name
    for path in (allocations.containers / without_directory).iterdir():
        path.unlink()
    (allocations.containers / without_directory).rmdir()
    (allocations.records / f"{without_record}.json").unlink()
    held = {RESOURCE: [ids(1)]}
    assert cleaner.sweep(held, 0.0).mended == (without_record,)
    assert cleaner.sweep(held, GRACE_S).removed == (without_directory,)
    (restored,) = allocations.recorded()
    assert (restored.name, restored.ids) == (without_record, ids(1))
    assert set(restored.files) == {"share.json", "status"}
    (allocations.records / f"{without_record}.json").unlink()
    cleaner.sweep({}, GRACE_S)
    assert cleaner.sweep({}, 2 * GRACE_S).removed == (without_record,)


@pytest.mark.loud
def test_a_record_that_a_power_cut_left_empty_is_written_anew(
    cleaner: Cleaner, allocations: Allocations
) -> None:
    name = allocations.make(share(3)).name
    (allocations.records / f"{name}.json").write_text("")
    assert cleaner.sweep({RESOURCE: [ids(3)]}, 0.0).mended == (name,)
    assert allocations.recorded()[0].ids == ids(3)


def test_a_directory_that_a_pod_comes_back_to_is_made_again(
    cleaner: Cleaner, allocations: Allocations
) -> None:
    directory = allocations.make(share(0))
    before = {path.name: path.read_text() for path in directory.iterdir()}
    shutil.rmtree(directory)
    held = {RESOURCE: [ids(0)]}
    assert cleaner.sweep(held, 0.0).mended == (directory.name,)
    assert {path.name: path.read_text() for path in directory.iterdir()} == before
    assert allocations.recorded()[0].place == (directory.stat().st_dev, directory.stat().st_ino)
    # What a runtime makes of a path that is missing.
    shutil.rmtree(directory)
    directory.mkdir()
    assert cleaner.sweep(held, 1.0).mended == (directory.name,)
    assert cleaner.sweep(held, 2.0).mended == ()
    assert {path.name: path.read_text() for path in directory.iterdir()} == before


def test_where_the_kubelet_and_the_node_differ_is_told_when_it_lasts(
    cleaner: Cleaner, allocations: Allocations, processes: Processes
) -> None:
    carried, waiting = allocations.make(share(0)), allocations.make(share(1))
    processes.add(7, [f"/{carried.name}"])
    held = {RESOURCE: [ids(1), ids(2)]}
    assert cleaner.sweep(held, 0.0).mismatches == frozenset()
    found = cleaner.sweep(held, 60.0).mismatches
    assert found is not None
    assert {(one.kind, one.digest) for one in found} == {
        (MismatchKind.UNLISTED, carried.name.partition(".")[0]),
        (MismatchKind.UNMOUNTED, waiting.name.partition(".")[0]),
        (MismatchKind.UNRECORDED, digest(RESOURCE, {"GPU-1": [2]})),
    }
    processes.add(8, [f"/{waiting.name}"])
    held = {RESOURCE: [ids(0), ids(1)]}
    assert cleaner.sweep(held, 120.0).mismatches == frozenset()


@pytest.mark.loud
def test_a_directory_with_more_in_it_than_files_stays(
    cleaner: Cleaner, allocations: Allocations
) -> None:
    directory = allocations.make(share(0))
    (directory / "folder").mkdir()
    cleaner.sweep({}, 0.0)
    assert cleaner.sweep({}, GRACE_S).removed == ()
    assert (directory / "folder").exists()


def allocation(name: str, made_at_s: int, *numbers: int) -> Allocation:
    return Allocation(name, RESOURCE, {"GPU-1": numbers}, made_at_s * SECOND, {}, (1, 1))


def test_of_the_same_units_the_newest_admission_is_held() -> None:
    found = [
        allocation("former", 0, 0, 1),
        allocation("init", 1000, 0, 1),
        allocation("main", 1001, 0, 1),
        allocation("other", 1001, 2),
    ]
    assert held_by_pods(found, {RESOURCE: [ids(0, 1)]}) == {"init", "main"}
    assert held_by_pods(found, {}) == set()


def test_a_process_that_ends_meanwhile_hides_no_other_of_its_namespace(
    processes: Processes,
) -> None:
    for pid in range(1, 9):
        processes.add(pid, ["/a"], namespace="shared")
        if pid != 5:
            (processes.proc / str(pid) / "mountinfo").unlink()
    assert mounted_names(processes.proc, processes.home, frozenset("a")) == {"a"}


def test_one_look_per_mount_namespace(processes: Processes) -> None:
    processes.add(1, ["/a"], namespace="shared")
    processes.add(2, ["/b"], namespace="shared")
    processes.add(3, ["/c", "/d/deeper"])
    (processes.proc / "4").mkdir()  # ended: nothing in it
    names = frozenset("abcd")
    found = mounted_names(processes.proc, processes.home, names)
    assert found is not None
    assert "c" in found
    assert len(found & {"a", "b"}) == 1
    assert "d" not in found
