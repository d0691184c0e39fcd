# SPDX-License-Identifier: Apache-2.0
"""Containers and their allocations: when they are looked for, and what is kept of them."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

import pytest

from agents.container_cgroups import ContainerCgroup
from agents.hostfs import HostFs
from agents.processes import ProcessKey
from gpu_plugin import carriers
from gpu_plugin.carriers import Carriers, home_of
from gpu_plugin.container_index import ContainerIndex, Holding, Timing
from gpu_plugin.process_origins import ProcessOrigins

POD = "8a5a1b1c-52f4-4d2b-9c1e-0123456789ab"
TIMING = Timing(new_s=2.0, all_s=30.0, young_s=10.0, again_s=5.0)


def cgroup(letter: str) -> ContainerCgroup:
    return ContainerCgroup(POD, letter * 64, f"/kubepods/pod{POD}/{letter * 64}")


class Node:
    """Processes with cgroups and mounts, in directories; and who was looked at."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host = HostFs(proc=directory / "proc", cgroup=directory / "cgroup")
        self.containers = directory / "gpu/containers"
        for path in (self.host.proc, self.host.cgroup, self.containers):
            path.mkdir(parents=True)
        (self.host.cgroup / "cgroup.controllers").touch()
        (self.host.cgroup / "cgroup.procs").touch()
        self.now = 1000.0
        self.names: set[str] = set()
        self.looked_at: list[int] = []
        self.restart()
        carried = Carriers.carried

        def noted(self_: Carriers, pid: int, names: Collection[str]) -> set[str]:
            self.looked_at.append(pid)
            return carried(self_, pid, set(names))

        monkeypatch.setattr(Carriers, "carried", noted)

    def restart(self) -> None:
        origins = ProcessOrigins(self.host, lambda: self.now)
        self.index = ContainerIndex(
            self.host, lambda: home_of(self.containers), origins, TIMING, lambda: self.now
        )

    def allocate(self, name: str) -> None:
        (self.containers / name).mkdir()
        self.names.add(name)

    def start(
        self, pid: int, container: ContainerCgroup | None, *names: str, start: int | None = None
    ) -> None:
        """A process; its mount namespace is its own."""
        directory = self.host.proc / str(pid)
        (directory / "ns").mkdir(parents=True)
        (directory / "ns/mnt").touch()
        (directory / "root/run").mkdir(parents=True)
        fields = ["S", *["0"] * 16, "1", "0", str(start or pid), "0"]
        (directory / "stat").write_text(f"{pid} (x) {' '.join(fields)}\n")
        path = "/system.slice" if container is None else container.path
        (directory / "cgroup").write_text(f"0::{path}\n")
        home = home_of(self.containers)
        lines = []
        for name in names:
            (directory / f"root/run/{name}").symlink_to(self.containers / name)
            major, minor = home.device
            lines.append(f"7 1 {major}:{minor} {home.root}/{name} /run/{name} ro - ext4 /d rw\n")
        (directory / "mountinfo").write_text("".join(lines))
        procs = self.host.cgroup / path[1:] / "cgroup.procs"
        procs.parent.mkdir(parents=True, exist_ok=True)
        with procs.open("a") as file:
            file.write(f"{pid}\n")

    def end(self, pid: int, container: ContainerCgroup) -> None:
        shutil.rmtree(self.host.proc / str(pid))
        procs = self.host.cgroup / container.path[1:] / "cgroup.procs"
        procs.write_text(procs.read_text().replace(f"{pid}\n", ""))

    def look(self, *using: ContainerCgroup, after: float = 1.0) -> dict[ContainerCgroup, Holding]:
        self.now += after
        self.looked_at.clear()
        return dict(self.index.look(self.names, using))


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch)


A, B = cgroup("a"), cgroup("b")


def test_nothing_is_looked_at_while_there_is_nothing_to_find(node: Node) -> None:
    node.start(5, A)
    for _ in range(3):
        assert node.look(after=100) == {}
        assert node.looked_at == []


def test_a_container_is_found_once_and_kept(node: Node) -> None:
    node.allocate("one")
    node.start(6, A, "one", start=9)
    node.start(5, None)
    node.start(7, A, start=3)
    expected = {A: Holding(A, ProcessKey(7, 3), frozenset({"one"}))}
    assert node.look() == expected
    for _ in range(20):
        assert node.look() == expected
        assert node.looked_at == [], "all are found"
    node.restart()
    assert node.look() == expected


def test_until_it_is_found_new_processes_are_looked_at(node: Node) -> None:
    node.start(5, None)
    node.look()
    node.allocate("one")
    assert node.look() == {}
    assert node.looked_at == [5], "an allocation came: everybody once"
    node.look(after=15)
    node.start(6, A, "one")
    assert node.look(after=1) == {}, "not so soon again"
    assert list(node.look(after=2)) == [A]
    assert node.looked_at == [6], "nobody else is new"


def test_now_and_then_all_processes_are_looked_at(node: Node) -> None:
    node.allocate("one")
    node.start(5, None)
    node.look()
    node.look(after=12)
    assert node.looked_at == []
    node.look(after=20)
    assert node.looked_at == [5]


def test_who_uses_a_device_is_looked_at_at_once(node: Node) -> None:
    node.allocate("one")
    node.look()
    node.start(6, A, "one")
    node.start(7, B)
    found = node.look(A, B, after=0.1)
    assert found[A].allocations == {"one"}
    assert (found[B].allocations, found[B].looked) == (frozenset(), True)


def test_who_has_nothing_is_looked_at_again(node: Node) -> None:
    """It may have been seen while its runtime was still making its mounts."""
    node.allocate("one")
    node.start(6, A)
    assert node.look(A)[A].allocations == frozenset()
    shutil.rmtree(node.host.proc / "6")
    node.start(6, A, "one")
    assert node.look(A, after=6)[A].allocations == {"one"}


def test_the_first_process_stands_for_the_others(node: Node) -> None:
    """One of them has mounts of its own, and shows nothing."""
    node.allocate("one")
    node.look()
    node.start(6, A, "one")
    node.start(7, A)
    assert node.look(A, after=0.1)[A].allocations == {"one"}
    assert node.looked_at[0] == 6


def test_who_lets_nobody_look_is_unknown(node: Node) -> None:
    node.allocate("one")
    node.look()
    node.start(6, A)
    (node.host.proc / "6/mountinfo").unlink()
    (node.host.proc / "6/mountinfo").mkdir()
    found = node.look(A, after=0.1)[A]
    assert (found.looked, found.refused) == (False, True)


def test_an_ended_container_is_forgotten_and_its_successor_found(node: Node) -> None:
    node.allocate("one")
    node.start(6, A, "one")
    assert list(node.look()) == [A]
    node.end(6, A)
    assert node.look(after=6) == {}
    node.start(7, B, "one")
    assert list(node.look(after=3)) == [B]


def test_a_successor_takes_over_at_once(node: Node) -> None:
    """Before the former one is looked at again."""
    node.allocate("one")
    node.start(6, A, "one")
    node.look()
    node.end(6, A)
    node.start(7, B, "one")
    assert list(node.look(B, after=0.1)) == [B]


def test_a_container_that_is_restarted_in_place_has_another_first_process(node: Node) -> None:
    """`docker restart` keeps the id."""
    node.allocate("one")
    node.start(6, A, "one")
    node.look()
    node.end(6, A)
    node.start(8, A, "one")
    assert node.look(after=6) == {A: Holding(A, ProcessKey(8, 8), frozenset({"one"}))}


def test_what_was_cleaned_up_is_forgotten(node: Node) -> None:
    node.allocate("one")
    node.start(6, A, "one")
    node.look()
    node.names.clear()
    assert node.look() == {}


def test_in_a_cgroup_namespace_of_our_own_processes_are_searched_for(node: Node) -> None:
    outside = ContainerCgroup(POD, "a" * 64, f"/../../pod{POD}/{'a' * 64}")
    node.allocate("one")
    node.start(6, outside, "one")
    node.start(7, outside)
    found = node.look(outside)
    assert found == {outside: Holding(outside, ProcessKey(6, 6), frozenset({"one"}))}


def test_a_host_process_that_looks_into_a_container_is_not_the_container(node: Node) -> None:
    node.allocate("one")
    node.start(5, None, "one")
    shutil.rmtree(node.host.proc / "5/root")
    node.start(6, A, "one")
    (node.host.proc / "5/root").symlink_to(node.host.proc / "6/root")
    (node.host.proc / "5/ns/mnt").unlink()
    (node.host.proc / "5/ns/mnt").symlink_to(node.host.proc / "6/ns/mnt")
    assert list(node.look()) == [A]


# -- what is proof, and what is not


def rewritten(node: Node, pid: int, **fields: str) -> set[str]:
    """What a process carries whose only line says something else."""
    home = node.containers
    found = home_of(home)
    line = {
        "device": ":".join(map(str, found.device)),
        "root": f"{found.root}/one",
        "point": "/run/one",
    } | fields
    text = f"7 1 {line['device']} {line['root']} {line['point']} ro - ext4 /d rw\n"
    (node.host.proc / str(pid) / "mountinfo").write_text(text)
    return carried_by(node, [pid])


def carried_by(node: Node, among: Iterable[int]) -> set[str]:
    found = carriers.sweep(node.host.proc, home_of(node.containers), node.names, among=among)
    return {name for _, names in found for name in names or ()}


def test_path_file_system_and_inode_must_be_the_directorys(node: Node) -> None:
    node.allocate("one")
    node.start(6, A, "one")
    root = home_of(node.containers).root
    (node.host.proc / "6/root/run/other").mkdir()
    assert rewritten(node, 6) == {"one"}
    assert rewritten(node, 6, device="250:99") == set(), "another file system"
    assert rewritten(node, 6, root="/volume/gpu/containers/one") == set(), "a suffix is no proof"
    assert rewritten(node, 6, root=f"/volume{root}/one") == set()
    assert rewritten(node, 6, root=f"{root}/one/deeper") == set()
    assert rewritten(node, 6, root=f"{root}/two") == set()
    assert rewritten(node, 6, point="/run/other") == set(), "another inode"
    assert rewritten(node, 6, point="/run/nowhere") == set()
    assert rewritten(node, 6, root=f"{root}/one//deleted", point="/run/other") == {"one"}
