# SPDX-License-Identifier: Apache-2.0
"""Refreshing the views of many containers: CPU time of one sweep.

The containers are real cgroups with one process each, which waits; the sweep is the agent's own
`Coverage`, called here, so that its CPU time can be told from everything else's. To change a
container its process is given a byte: it uses CPU time and memory, or gives that back, which the
sweep must notice. What is read is read by this process, and told by the kernel as it is to the
agent; being told is not measured. Before each sweep this process sleeps, so that it meets cold
caches as the agent does: swept again at once, unchanged containers cost less than half. The clock
is moved on instead of waiting for the next heartbeat.

For the cost by CPUs the host's files are made for so many, of the blocks of this one's; containers
may use all but half a CPU of them.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from agents.cgroups import LinuxCgroups
from agents.containers import Container, Pod
from agents.hostfs import PROC, HostFs
from agents.mounts import LinuxMounts
from agents.standin import run_directory
from agents.standin.cgroup_limits import Limits
from agents.standin.cgroup_tree import CgroupTree
from agents.standin.container_plan import new_container_id
from agents.standin.up import cgroup_parent
from lxcfs_helper.config import ViewConfig, ViewName
from lxcfs_helper.coverage import Coverage, boot_clock
from lxcfs_helper.demand import WatchedDemand
from lxcfs_helper.files import ViewFiles, views_directory
from lxcfs_helper.rhythm import IDLE_S
from lxcfs_helper.sources import Source
from lxcfs_helper.views import VIEWS
from tests.bench.measure import Context, Goal, Row, at_most, median
from tests.bench.workplace import Workplace, needs_kernel, workplace

#: As many as the kubelet admits by default.
_USUAL = 110
_COUNTS = (1, 10, _USUAL, 500)
_CPUS = (2, 64, 256)
_MEMORY = 256 << 20
_ATTEMPTS, _PAUSE_S = 20, 0.02

_MEMINFO = (ViewName.MEMINFO,)
_DYNAMIC = tuple(name for name, view in VIEWS.items() if view.sources & ~Source.LIMITS)
_DEFAULT = ViewConfig().files


@dataclass(frozen=True, slots=True)
class _Member:
    """A container and its process, which uses memory when it is sent something."""

    container: Container
    process: subprocess.Popen[bytes]

    def stir(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"x")
        self.process.stdin.flush()
        self.process.stdout.read(1)


class _Swept:
    """The agent's work on some containers, with a clock that is moved on."""

    def __init__(
        self, place: Workplace, members: Sequence[_Member], names: Sequence[ViewName], host: HostFs
    ) -> None:
        mounts = LinuxMounts()
        directory = views_directory(place.directory / secrets.token_hex(4))
        self.members = members
        self.files = ViewFiles(directory, mounts, PROC)
        self.files.mount()
        self.config = ViewConfig(files=tuple(names))
        self._ahead_s = 0.0
        self._demand = WatchedDemand()
        self._coverage = Coverage(
            self.config, host, LinuxCgroups(host), self.files, self._clock, self._demand
        )
        self._coverage.observe([member.container for member in members])
        self._coverage.refresh()

    def _clock(self) -> float:
        return boot_clock() + self._ahead_s

    def read(self) -> None:
        """Read one file of each."""
        for member in self.members:
            directory = self.files.directory_of(member.container.id)
            next(path for path in directory.iterdir() if path.is_file()).read_bytes()
        self._coverage.read_by([member.container.id for member in self.members])

    def sweep_ms(self, after_s: float, expected: int) -> float:
        """CPU time of a sweep, so long after the one before, that renders so many.

        A process's last moments are accounted when it sleeps again, which may come after a sweep:
        then that one does not count.
        """
        for _ in range(_ATTEMPTS):
            time.sleep(_PAUSE_S)
            self._ahead_s += after_s
            before = time.thread_time_ns()
            sweep = self._coverage.refresh()
            spent = time.thread_time_ns() - before
            if sweep.rendered == expected:
                return spent / 1e6
            if expected:
                break
        raise RuntimeError(f"{sweep.rendered} containers were rendered, not {expected}")

    def close(self) -> None:
        self._coverage.close()
        self._demand.close()
        self.files.unmount()


def measure(context: Context) -> Sequence[Row]:
    """Rows of CPU milliseconds: by what is shown, by containers, by CPUs."""
    needs_kernel(context)
    counts = _COUNTS[:-1] if context.quick else _COUNTS
    with workplace(context) as place, _members(place, max(counts)) as members:
        usual = members[:_USUAL]
        return [
            *_by_view(context, place, usual),
            *_by_count(context, place, members, counts),
            *_by_cpus(context, place, usual),
        ]


def _by_view(context: Context, place: Workplace, members: Sequence[_Member]) -> Iterator[Row]:
    """What is read: every container moved, one, or none."""
    for names, what, goal in (
        (_MEMINFO, "meminfo", at_most(5, "ms")),
        (_DYNAMIC, "all dynamic views", None),
        (_DEFAULT, "all views", None),
    ):
        with _swept(place, members, names, context.host) as swept:
            moved, idle = [], []
            for _ in range(context.pick(30, 5)):
                swept.read()
                for member in members:
                    member.stir()
                moved.append(swept.sweep_ms(1.0, len(members)))
            yield _row(f"all moved and are read, {what}", moved, len(members), goal)
            for _ in range(context.pick(10, 3)):
                swept.sweep_ms(60.0, len(members))  # nobody has read for long
                idle.append(swept.sweep_ms(IDLE_S, len(members)))
            yield _row(f"nobody reads, {what}, once in {IDLE_S:g} s", idle, len(members))
    yield from _unchanged(context, place, members)


def _unchanged(context: Context, place: Workplace, members: Sequence[_Member]) -> Iterator[Row]:
    """Sweeps that have little or nothing to do."""
    with _swept(place, members, _MEMINFO, context.host) as swept:
        none, one, early = [], [], []
        for _ in range(context.pick(30, 5)):
            swept.read()
            swept.sweep_ms(60.0, len(members))
            swept.read()
            swept.sweep_ms(1.0, 0)
            none.append(swept.sweep_ms(1.0, 0))
            members[0].stir()
            one.append(swept.sweep_ms(1.0, 1))
            early.append(swept.sweep_ms(0.1, 0))
    goal = at_most(0.2, "ms")
    yield _row("none moved, all are read, meminfo", none, len(members), goal)
    yield _row("one moved, all are read, meminfo", one, len(members))
    yield _row("it is time for none", early, len(members), goal)


def _by_count(
    context: Context, place: Workplace, members: Sequence[_Member], counts: Sequence[int]
) -> Iterator[Row]:
    for count in counts:
        some = members[:count]
        with _swept(place, some, _DEFAULT, context.host) as swept:
            values = []
            for _ in range(context.pick(10, 3)):
                swept.read()
                for member in some:
                    member.stir()
                values.append(swept.sweep_ms(1.0, count))
        yield _row(f"all moved and are read, all views, {count} containers", values, count)


def _by_cpus(context: Context, place: Workplace, members: Sequence[_Member]) -> Iterator[Row]:
    for cpus in _CPUS:
        host = _host(context.host, place.directory / f"host{cpus}", cpus, members)
        _limit(place, members, cpus)
        with _swept(place, members, _DEFAULT, host) as swept:
            values = []
            for _ in range(context.pick(10, 3)):
                swept.read()
                for member in members:
                    member.stir()
                values.append(swept.sweep_ms(1.0, len(members)))
        yield _row(f"all moved and are read, all views, {cpus} CPUs", values, len(members))


def _row(what: str, values: Sequence[float], count: int, goal: Goal | None = None) -> Row:
    note = f"{count} real cgroups with a process each"
    return Row(f"{what}: CPU per sweep", median(values, "ms"), goal=goal, note=note)


@contextmanager
def _swept(
    place: Workplace, members: Sequence[_Member], names: Sequence[ViewName], host: HostFs
) -> Iterator[_Swept]:
    swept = _Swept(place, members, names, host)
    try:
        yield swept
    finally:
        swept.close()


def _host(real: HostFs, directory: Path, cpus: int, members: Sequence[_Member]) -> HostFs:
    """A host with so many CPUs, whose processes and cgroups are this one's."""
    proc, cpu_directory = directory / "proc", directory / "sys/devices/system/cpu"
    proc.mkdir(parents=True)
    cpu_directory.mkdir(parents=True)
    for name in ("meminfo", "diskstats"):
        (proc / name).symlink_to(PROC / name)
    for member in members:
        _process(PROC / str(member.container.pid), proc / str(member.container.pid))
    block = (PROC / "cpuinfo").read_text().split("\n\n")[0].split("\n", 1)[1]
    text = "".join(f"processor\t: {number}\n{block}\n\n" for number in range(cpus))
    (proc / "cpuinfo").write_text(text)
    (proc / "stat").write_text("cpu 0 0 0 0\nbtime 1700000000\n")
    (cpu_directory / "online").write_text(f"0-{cpus - 1}\n")
    for number in range(cpus):
        topology = cpu_directory / f"cpu{number}/topology"
        topology.mkdir(parents=True)
        (topology / "core_id").write_text(f"{number}\n")
    return replace(real, proc=proc, sys=directory / "sys")


def _process(real: Path, shown: Path) -> None:
    """One whose cpuset (v1) does not keep it on the CPUs that are really there."""
    shown.mkdir()
    (shown / "stat").symlink_to(real / "stat")
    lines = (real / "cgroup").read_text().splitlines(keepends=True)
    (shown / "cgroup").write_text("".join(line for line in lines if ":cpuset:" not in line))


def _limit(place: Workplace, members: Sequence[_Member], cpus: int) -> None:
    tree = CgroupTree(place.context.host, cgroup_parent(place.directory))
    limits = Limits(cpu_millis=cpus * 1000 - 500, memory_bytes=_MEMORY)
    for member in members:
        tree.limit(_path(tree, member.container), limits)


@contextmanager
def _members(place: Workplace, count: int) -> Iterator[list[_Member]]:
    """So many containers; what is left of them at the end goes with the workplace."""
    tree = CgroupTree(place.context.host, cgroup_parent(place.directory))
    environment = {**os.environ, **run_directory.environment(place.directory)}
    program = place.compile("member")
    with ExitStack() as stack:
        members = []
        for number in range(count):
            process = subprocess.Popen(
                [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
            )
            stack.callback(_end, process)
            members.append(_Member(_container(tree, number, process.pid), process))
        yield members


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def _container(tree: CgroupTree, number: int, pid: int) -> Container:
    """Put the process where a kubelet would have it run, with limits."""
    container_id, uid = new_container_id(), secrets.token_hex(8)
    container = Container(container_id, "main", Pod(f"pod-{number}", "bench", uid), pid)
    path = _path(tree, container)
    tree.create(path, Limits(cpu_millis=1500, memory_bytes=_MEMORY))
    for directory in tree.directories(path):
        (directory / "cgroup.procs").write_text(str(pid))
    return container


def _path(tree: CgroupTree, container: Container) -> str:
    return f"{tree.parent}/kubepods/burstable/pod{container.pod.uid}/{container.id}"
