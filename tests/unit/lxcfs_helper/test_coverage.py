# SPDX-License-Identifier: Apache-2.0
"""Containers come, change and go: what is written, and what is to be attached."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.cgroup_events import CgroupChanges
from agents.cgroups import LinuxCgroups
from agents.containers import Container, Pod
from agents.errors import Unavailable
from agents.mounts import LinuxMounts
from lxcfs_helper.config import InjectConfig, ViewConfig, ViewName
from lxcfs_helper.coverage import ORPHAN_S, Coverage, Order
from lxcfs_helper.files import ViewFiles
from lxcfs_helper.host_reading import parse_meminfo
from lxcfs_helper.inject import Outcome, Result, Step
from lxcfs_helper.rhythm import IDLE_S, MAX_AGE_S, READ_AGAIN_S
from lxcfs_helper.status import status
from lxcfs_helper.sweep import Sweep
from tests.fakes.recorded_hosts import PID, host_fs, recorded

ID = "3f1c9a5e7b2d4f60819a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f70"
STAT = f"{PID} (python3) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {{start}} 0 0\n"


def pretended(directory: Path) -> ViewFiles:
    """Files in a plain directory, as if a tmpfs were mounted there."""
    files = ViewFiles(directory, LinuxMounts(), Path("/proc"))
    number = directory.stat().st_dev
    files.device = os.major(number), os.minor(number)
    return files


class ToldDemand:
    """Notes whose reads are to be told."""

    def __init__(self) -> None:
        self.expected: list[str] = []
        self.broken = False

    def expect(self, container_id: str, directory: Path) -> None:
        if self.broken:
            raise Unavailable("cannot watch: No space left on device")
        assert directory.name == container_id
        self.expected.append(container_id)

    async def readers(self) -> frozenset[str]:
        raise NotImplementedError

    def close(self) -> None: ...


class World:
    """A recorded host whose files may change, a clock, and what the coverage made of them."""

    def __init__(self, directory: Path) -> None:
        self.tree = directory / "host"
        shutil.copytree(recorded("v2-nested").proc.parent, self.tree)
        self.now = 1000.0
        self.used = 200_000_000
        self.process(start=50_000)
        (directory / "views").mkdir()
        self.files = pretended(directory / "views")
        self.config = ViewConfig()
        self.demand = ToldDemand()
        self.made: list[Coverage] = []
        self.coverage = self.agent()

    def agent(self) -> Coverage:
        host = host_fs(self.tree)
        made = Coverage(
            self.config, host, LinuxCgroups(host), self.files, lambda: self.now, self.demand
        )
        self.made.append(made)
        return made

    def show(self, *names: ViewName) -> None:
        """Show only these, from now on."""
        self.config = self.config.model_copy(update={"files": names})
        self.coverage.config = self.config

    def use(self, *, memory: int) -> None:
        """Let the container use CPU time, and this much memory."""
        self.used += 1
        usage = f"usage_usec {self.used}\nuser_usec {self.used}\nsystem_usec 0\n"
        self.cgroup("cpu.stat", usage)
        top = self.tree / "sys/fs/cgroup/kubepods.slice/cpu.stat"
        top.write_text(usage)
        self.cgroup("memory.current", f"{memory}\n")

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with a sweep whenever one is due."""
        end = self.now + seconds
        while (due := self.now + self.coverage.next_look_s()) < end:
            self.now = due
            self.coverage.refresh()
        self.now = end

    def process(self, *, start: int | None) -> None:
        """Start, replace or (None) end the container's first process."""
        path = self.tree / "proc" / str(PID) / "stat"
        path.unlink() if start is None else path.write_text(STAT.format(start=start))

    def cgroup(self, name: str, text: str) -> None:
        own = next(self.tree.glob("sys/fs/cgroup/**/cri-containerd-*.scope"))
        (own / name).write_text(text)

    def meminfo(self) -> dict[str, int]:
        return parse_meminfo((self.files.read(ID, "meminfo") or b"").decode())


CONTAINER = Container(ID, "main", Pod("ada", "jupyter", "uid"), PID)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    one = World(tmp_path)
    yield one
    for made in one.made:  # each file of a cgroup that it looks at stays open
        made.close()


def shown(order: Order) -> set[str]:
    return {str(wish.target) for wish in order.wishes if wish.source is not None}


def attached(order: Order) -> Mapping[Path, Result]:
    """What an injector answers when all goes well."""
    return {
        wish.target: Result(Outcome.ABSENT)
        if wish.source is None
        else Result(Outcome.SHOWN, (Step.ATTACH,))
        for wish in order.wishes
    }


def rows(world: World, sweep: Sweep) -> Any:
    return status(world.coverage, sweep, {})["containers"]


def settle(world: World) -> Order:
    (order,) = world.coverage.orders()
    world.coverage.settle(order, attached(order), beneath=True)
    return order


def test_a_new_container_is_rendered_before_anything_is_attached(world: World) -> None:
    world.coverage.observe([CONTAINER])
    assert world.coverage.orders() == (), "there is nothing to show yet"
    sweep = world.coverage.refresh()
    assert (sweep.containers, sweep.rendered) == (1, 1)
    order = settle(world)
    assert order.expected
    assert {"/proc/meminfo", "/proc/stat", "/sys/devices/system/cpu"} <= shown(order)
    assert world.meminfo()["MemTotal"] == 1792 * 1024
    assert world.files.read(ID, "cpu/online") == b"0-1\n"
    (row,) = rows(world, sweep)
    views = row.pop("views")
    assert row == {
        "namespace": "jupyter",
        "pod": "ada",
        "container": "main",
        "id": ID,
        "cpus": 2,
        "memory_limit": 1792 << 20,
        "memory_used": 1080 << 20,
    }
    assert {views[name] for name in ("meminfo", "cpuinfo", "stat", "cpu")} == {"attached"}
    assert views["uptime"] == "off"


def test_a_container_that_is_told_of_is_covered_before_it_is_listed(world: World) -> None:
    assert world.coverage.order_of(ID) is None
    taken = world.coverage.take(CONTAINER)
    assert taken is world.coverage.selected(ID) is not None
    assert world.meminfo()["MemTotal"] == 1792 * 1024
    order = world.coverage.order_of(ID)
    assert order is not None
    assert "/proc/meminfo" in shown(order)
    world.coverage.settle(order, attached(order), beneath=True)
    assert world.coverage.orders() == (), "nothing is left to be done"
    assert world.coverage.take(CONTAINER) is taken
    world.coverage.observe([])
    assert world.coverage.selected(ID) is taken, "not listed yet"


def test_who_is_left_out_is_not_covered_when_he_is_told_of(world: World) -> None:
    away = Container(ID, "main", Pod("proxy", "kube-system", "uid"), PID)
    assert world.coverage.take(away) is None
    assert world.coverage.order_of(ID) is None
    assert [one.id for one, _ in world.coverage.excluded()] == [ID]


def test_unread_files_are_seldom_written_and_never_get_old(world: World) -> None:
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    settle(world)
    assert world.demand.expected == [ID]
    for _ in range(5):
        rendered_at = world.now
        world.now += world.coverage.next_look_s()
        assert IDLE_S <= world.now - rendered_at < MAX_AGE_S
        world.cgroup("memory.current", f"{1100 << 20}\n")
        assert world.coverage.refresh().rendered == 1
    assert world.meminfo()["MemFree"] == (1792 - 1100) * 1024
    assert world.coverage.orders() == (), "written in place"
    assert world.demand.expected == [ID], "nobody read, so nothing has to be expected again"


def test_nothing_is_looked_at_before_it_is_time(world: World) -> None:
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    world.now += IDLE_S / 4
    world.use(memory=1100 << 20)
    sweep = world.coverage.refresh()
    assert (sweep.containers, sweep.looked, sweep.rendered) == (1, 0, 0)


def test_who_begins_to_read_gets_fresh_values_at_once(world: World) -> None:
    world.coverage.observe([CONTAINER])
    assert world.coverage.refresh().read == 0  # nothing of it could have been read yet
    world.now += 2
    world.use(memory=1100 << 20)
    world.coverage.read_by([ID, "unknown"])
    assert world.coverage.next_look_s() == 0
    sweep = world.coverage.refresh()
    assert (sweep.read, sweep.rendered, sweep.oldest_read_s) == (1, 1, 2.0)
    assert world.meminfo()["MemFree"] == (1792 - 1100) * 1024
    world.now += 0.1
    world.coverage.read_by([ID])
    assert world.coverage.next_look_s() > 0.5, "these are fresh"
    assert world.demand.expected == [ID], "that it reads is known for a while"
    world.pass_time(READ_AGAIN_S / 2 + 1)
    assert world.demand.expected == [ID, ID]


def test_where_somebody_reads_values_are_as_old_as_a_heartbeat_and_only_what_moved_is_rendered(
    world: World,
) -> None:
    world.show(ViewName.MEMINFO)
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    world.now += 1
    world.coverage.read_by([ID])
    world.coverage.refresh()
    for number in range(3):
        world.now += world.coverage.next_look_s()
        assert world.coverage.refresh().rendered == 0, "nothing moved"
        world.use(memory=(1000 + number) << 20)
        before = world.now
        world.now += world.coverage.next_look_s()
        assert world.now - before <= world.config.heartbeat
        assert world.coverage.refresh().rendered == 1
        assert world.meminfo()["MemFree"] == (1792 - 1000 - number) * 1024


def test_idle_time_goes_on_while_it_is_read_though_nothing_moved(world: World) -> None:
    world.show(ViewName.STAT, ViewName.CPUINFO)
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    world.coverage.read_by([ID])
    world.now += 1
    before = idle_ticks(world)
    sweep = world.coverage.refresh()
    assert (sweep.rendered, sweep.views) == (1, 1), "stat, and not cpuinfo"
    assert idle_ticks(world) == before + 150, "one and a half CPUs"


def idle_ticks(world: World) -> int:
    return int((world.files.read(ID, "stat") or b"").split()[4])


def test_who_has_stopped_reading_is_idle_again(world: World) -> None:
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    world.coverage.read_by([ID])
    world.pass_time(READ_AGAIN_S + 2)
    assert world.coverage.next_look_s() > world.config.heartbeat
    looked = world.now
    world.pass_time(3 * IDLE_S)
    assert world.now > looked
    assert world.demand.expected == [ID, ID]


def test_where_nobody_can_tell_who_reads_everybody_is_taken_to_read(world: World) -> None:
    world.demand.broken = True
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    assert world.coverage.next_look_s() <= world.config.heartbeat


@pytest.mark.parametrize(
    ("change", "rendered"),
    [
        (CgroupChanges(limited=frozenset({"/kubepods.slice"})), 1),
        (CgroupChanges(limited=frozenset({"/kubepods"})), 0),
        (CgroupChanges(lost=True), 1),
        (CgroupChanges(created=frozenset({"/kubepods.slice"})), 0),
    ],
)
def test_a_limit_that_changed_is_shown_at_once(
    world: World, change: CgroupChanges, rendered: int
) -> None:
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    settle(world)
    world.cgroup("memory.max", f"{1 << 30}\n")
    world.cgroup("cpu.max", "100000 100000\n")
    world.now += 0.1
    world.coverage.limits_changed(change)
    assert (world.coverage.next_look_s() == 0) is bool(rendered)
    assert world.coverage.refresh().rendered == rendered
    if rendered:
        assert world.meminfo()["MemTotal"] == 1024 * 1024
        assert world.files.read(ID, "cpu/online") == b"0\n"
        assert settle(world).expected


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("memory.max", f"{1 << 30}\n"),
        ("memory.swap.max", "0\n"),
        ("cpu.max", "50000 100000\n"),
        ("cpuset.cpus.effective", "2\n"),
    ],
)
def test_a_limit_whose_change_nobody_tells_is_found_by_looking(
    world: World, file: str, text: str
) -> None:
    world.coverage.observe([CONTAINER])
    world.coverage.check_limits()
    world.coverage.refresh()
    world.coverage.check_limits()
    assert world.coverage.refresh().looked == 0
    (one,) = world.coverage.all()
    before = one.facts and one.facts.limits
    world.cgroup(file, text)
    world.coverage.check_limits()
    assert world.coverage.refresh().rendered == 1
    assert one.facts
    assert one.facts.limits != before


def test_a_container_whose_cgroup_and_process_are_gone_is_let_go_without_asking(
    world: World,
) -> None:
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    (one,) = world.coverage.all()
    gone = CgroupChanges(removed=frozenset(one.located.cgroup.all()))
    world.coverage.removed(gone)
    assert [*world.coverage.all()] == [one], "its process still runs"
    world.process(start=None)
    world.coverage.removed(CgroupChanges(removed=frozenset({"/kubepods.slice"})))
    assert [*world.coverage.all()] == [one]
    world.coverage.removed(gone)
    assert [*world.coverage.all()] == []
    assert world.files.containers() == frozenset()


def test_limits_that_are_lifted_show_the_host(world: World) -> None:
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    settle(world)
    for directory in world.tree.glob("sys/fs/cgroup/**/"):
        if (directory / "memory.max").exists():
            (directory / "memory.max").write_text("max\n")
            (directory / "cpu.max").write_text("max 100000\n")
            (directory / "cpuset.cpus.effective").write_text("0-7\n")
    world.coverage.check_limits()
    world.coverage.refresh()
    order = settle(world)
    assert shown(order) == set()
    (row,) = rows(world, world.coverage.refresh())
    assert set(row["views"].values()) == {"host", "off"}


def test_a_runtime_that_forgets_for_a_moment_does_no_harm(world: World) -> None:
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    settle(world)
    world.coverage.observe([])
    assert [one.id for one in world.coverage.all()] == [ID], "its process still runs"
    world.process(start=None)
    world.coverage.observe([])
    assert [*world.coverage.all()] == []
    assert world.files.containers() == frozenset()


def test_a_reused_pid_is_another_container(world: World) -> None:
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    world.process(start=99_999)
    world.coverage.observe([])
    assert [*world.coverage.all()] == []


def test_a_container_that_was_started_again_is_another_one_with_the_same_id(world: World) -> None:
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    processes = world.tree / "proc"
    shutil.copytree(processes / str(PID), processes / "777777")
    (processes / "777777/stat").write_text(STAT.format(start=77_000).replace(str(PID), "777777"))
    again = replace(CONTAINER, pid=777777)
    world.coverage.observe([again])
    (one,) = world.coverage.all()
    assert one.located.container == CONTAINER, "the first still runs: in doubt nothing is done"
    world.process(start=None)
    world.coverage.observe([again])
    (one,) = world.coverage.all()
    assert one.located.container == again
    assert world.coverage.refresh().rendered == 1
    assert shown(settle(world))


def test_no_more_are_covered_than_files_may_be_open_and_the_rest_is_told_why(world: World) -> None:
    host = host_fs(world.tree)
    few = Coverage(
        world.config, host, LinuxCgroups(host), world.files, lambda: world.now, None, most=1
    )
    few.observe([CONTAINER, replace(CONTAINER, id="b" * 64)])
    assert [one.id for one in few.all()] == [ID]
    ((container, reason),) = few.unlocated()
    assert container.id == "b" * 64
    assert "LimitNOFILE" in reason
    few.close()


def test_a_container_that_cannot_be_looked_at_stops_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    (one,) = world.coverage.all()

    def no_memory(*_: object) -> int:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(one, "look", no_memory)
        patch.setattr(one, "check_limits", no_memory)
        world.now += IDLE_S
        world.coverage.check_limits()
        assert world.coverage.refresh().rendered == 0
    (row,) = rows(world, Sweep())
    assert "Cannot allocate memory" in row["views"]["meminfo"]
    world.now += IDLE_S
    assert world.coverage.refresh().rendered == 1
    (row,) = rows(world, Sweep())
    assert "failed" not in row["views"]["meminfo"]


def test_files_of_nobody_are_removed_after_a_while(world: World) -> None:
    world.files.write("gone", "stat", b"1\n")
    world.coverage.observe([CONTAINER])
    assert world.files.containers() == {"gone"}
    world.now += ORPHAN_S
    world.coverage.observe([CONTAINER])
    assert world.files.containers() == frozenset()


def test_a_new_agent_never_lets_cpu_time_go_back(world: World) -> None:
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    before = [int(word) for word in (world.files.read(ID, "stat") or b"").split()[1:11]]
    world.coverage.close()
    world.cgroup("cpu.stat", "usage_usec 0\nuser_usec 0\nsystem_usec 0\n")
    successor = world.agent()
    successor.observe([CONTAINER])
    successor.refresh()
    after = [int(word) for word in (world.files.read(ID, "stat") or b"").split()[1:11]]
    assert all(new >= old for new, old in zip(after, before, strict=True))


def test_excluded_later_everything_is_taken_away_and_forgotten(world: World) -> None:
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    settle(world)
    inject = InjectConfig(namespaces=("other",))
    world.coverage.config = world.config.model_copy(update={"inject": inject})
    world.coverage.observe([CONTAINER])
    assert shown(settle(world)) == set()
    world.coverage.observe([CONTAINER])
    assert [*world.coverage.all()] == []
    assert world.files.containers() == frozenset()
    (row,) = rows(world, world.coverage.refresh())
    assert set(row["views"].values()) == {"excluded: its namespace is not selected"}


def test_a_container_excluded_before_this_agent_started_is_cleared_too(world: World) -> None:
    world.files.write(ID, "stat", b"of an earlier agent\n")
    inject = InjectConfig(exclude=("jupyter",))
    world.coverage.config = world.config.model_copy(update={"inject": inject})
    world.coverage.observe([CONTAINER])
    assert shown(settle(world)) == set()


def test_what_cannot_be_told_for_sure_is_left_alone_with_the_reason(world: World) -> None:
    untold = replace(CONTAINER, id="1111", pid=None)
    stranger = replace(CONTAINER, id="2222")
    world.coverage.observe([untold, stranger])
    assert [*world.coverage.all()] == []
    found = rows(world, world.coverage.refresh())
    assert {row["id"]: row["views"]["stat"] for row in found} == {
        "1111": "failed: the container runtime does not tell its pid",
        "2222": f"failed: process {PID} is in no cgroup named after the container",
    }


def test_a_cgroup_that_vanishes_keeps_the_last_values(world: World) -> None:
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    settle(world)
    before = world.files.read(ID, "meminfo")
    for path in world.tree.glob("sys/fs/cgroup/**/cri-containerd-*.scope"):
        shutil.rmtree(path)
    world.coverage = world.agent()
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    assert world.files.read(ID, "meminfo") == before
    (one,) = world.coverage.all()
    assert "cgroup is gone" in one.views()["meminfo"]


def test_a_failed_injection_is_told_and_tried_again(world: World) -> None:
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    (order,) = world.coverage.orders()
    failure = Result(Outcome.FAILED, (), "operation not permitted")
    world.coverage.settle(order, {w.target: failure for w in order.wishes}, beneath=True)
    (one,) = world.coverage.all()
    assert one.views()["cpu"] == "failed: operation not permitted"
    (again,) = world.coverage.orders(everything=True)
    assert not again.expected


def test_nothing_is_missed_while_the_host_cannot_be_read(world: World) -> None:
    world.show(ViewName.MEMINFO)
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    text = (world.tree / "proc/meminfo").read_text()
    (world.tree / "proc/meminfo").unlink()
    world.now += IDLE_S
    world.use(memory=1100 << 20)
    with pytest.raises(Unavailable, match="host's own files"):
        world.coverage.refresh()
    (world.tree / "proc/meminfo").write_text(text)
    assert world.coverage.next_look_s() == 0
    assert world.coverage.refresh().rendered == 1
    assert world.meminfo()["MemFree"] == (1792 - 1100) * 1024


def test_what_the_host_has_left_is_shown_where_it_is_less(world: World) -> None:
    world.show(ViewName.MEMINFO)
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    whole, meminfo = world.meminfo()["MemAvailable"], world.tree / "proc/meminfo"
    text = meminfo.read_text()
    for available, shown_kib in ((100, 100), (200, 200), (whole - 1, whole - 1), (1 << 40, whole)):
        meminfo.write_text(re.sub(r"(?m)^MemAvailable: .*$", f"MemAvailable: {available} kB", text))
        world.pass_time(IDLE_S + 1)
        assert world.meminfo()["MemAvailable"] == shown_kib


def test_what_did_not_move_is_not_rendered_again(world: World) -> None:
    world.show(ViewName.MEMINFO, ViewName.LOADAVG, ViewName.DISKSTATS)
    world.coverage.observe([CONTAINER])
    world.coverage.refresh()
    world.pass_time(6 * IDLE_S)
    world.coverage.refresh()
    views = []
    for _ in range(4):
        world.now += world.coverage.next_look_s()
        views.append(world.coverage.refresh().views)
    assert sorted(views) == [0, 0, 1, 1], "loadavg, when it is time for a sample"
    world.now += 2 * IDLE_S
    world.use(memory=1100 << 20)
    assert world.coverage.refresh().views == 2, "and memory, but nothing of a disk"
