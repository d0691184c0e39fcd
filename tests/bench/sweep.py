# SPDX-License-Identifier: Apache-2.0
"""Refreshing the views of 110 containers: CPU time of one sweep.

The containers are real cgroups with one process each (`cat`, which waits); the sweep is the agent's
own `Coverage`, called here, so that its CPU time can be told from everything else's. To change a
container its process is given a byte to copy: it uses CPU time, which the sweep must notice.
Before each sweep this process sleeps, so that it meets cold caches as the agent does: swept again
at once, unchanged containers cost less than half.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from agents.cgroups import LinuxCgroups
from agents.containers import Container, Pod
from agents.mounts import LinuxMounts
from agents.standin import run_directory
from agents.standin.cgroup_limits import Limits
from agents.standin.cgroup_tree import CgroupTree
from agents.standin.container_plan import new_container_id
from agents.standin.up import cgroup_parent
from lxcfs_helper.config import ViewConfig, ViewName
from lxcfs_helper.coverage import Coverage
from lxcfs_helper.files import ViewFiles, views_directory
from lxcfs_helper.views import VIEWS
from tests.bench.measure import Context, Goal, Row, at_most, median
from tests.bench.workplace import Workplace, needs_kernel, workplace

_CONTAINERS = 110
_MEMORY = 256 << 20
_ATTEMPTS, _PAUSE_S = 20, 0.02


@dataclass(frozen=True, slots=True)
class _Member:
    """A container and its process, which copies what it is sent."""

    container: Container
    process: subprocess.Popen[bytes]

    def use_cpu_time(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"x")
        self.process.stdin.flush()
        self.process.stdout.read(1)


def measure(context: Context) -> Sequence[Row]:
    """Rows of CPU milliseconds, all changed and none changed."""
    needs_kernel(context)
    dynamic = tuple(name for name in ViewName if VIEWS[name].dynamic)
    rows = []
    with workplace(context) as place, _members(place) as members:
        for names, goal in (
            ((ViewName.MEMINFO,), at_most(5, "ms")),
            (dynamic, None),
            (tuple(ViewName), None),
        ):
            shown = "+".join(name.value for name in names)
            changed, unchanged = _sweeps(context, place, members, names)
            rows.append(_row(f"all changed, {shown}", changed, goal))
        rows.append(_row(f"none changed, {shown}", unchanged, at_most(0.2, "ms")))
    return rows


def _row(what: str, values: Sequence[float], goal: Goal | None) -> Row:
    note = f"{_CONTAINERS} real cgroups with a process each"
    return Row(f"{what}: CPU per sweep", median(values, "ms"), goal=goal, note=note)


def _sweeps(
    context: Context, place: Workplace, members: Sequence[_Member], names: tuple[ViewName, ...]
) -> tuple[list[float], list[float]]:
    """CPU milliseconds of sweeps in which every container had changed, and none."""
    host, mounts = context.host, LinuxMounts()
    files = ViewFiles(views_directory(place.directory / secrets.token_hex(4)), mounts, host.proc)
    files.mount()
    coverage = Coverage(ViewConfig(files=names), host, LinuxCgroups(host), files)
    try:
        coverage.observe([member.container for member in members])
        coverage.refresh()
        changed, unchanged = [], []
        for _ in range(context.pick(30, 5)):
            for member in members:
                member.use_cpu_time()
            changed.append(_sweep_ms(coverage, len(members)))
            unchanged.append(_sweep_ms(coverage, 0))
        return changed, unchanged
    finally:
        coverage.close()
        files.unmount()


def _sweep_ms(coverage: Coverage, expected: int) -> float:
    """A sweep that renders so many. A process's last moments are accounted when it sleeps again,
    which may come after a sweep: then that one does not count.
    """
    for _ in range(_ATTEMPTS):
        time.sleep(_PAUSE_S)
        before = time.thread_time_ns()
        sweep = coverage.refresh()
        spent = time.thread_time_ns() - before
        if sweep.rendered == expected:
            return spent / 1e6
        if expected:
            break
    raise RuntimeError(f"{sweep.rendered} containers were rendered, not {expected}")


@contextmanager
def _members(place: Workplace) -> Iterator[list[_Member]]:
    """All containers; what is left of them at the end goes with the workplace."""
    tree = CgroupTree(place.context.host, cgroup_parent(place.directory))
    environment = {**os.environ, **run_directory.environment(place.directory)}
    with ExitStack() as stack:
        members = []
        for number in range(_CONTAINERS):
            process = subprocess.Popen(
                ["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
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
    path = f"{tree.parent}/kubepods/burstable/pod{uid}/{container_id}"
    tree.create(path, Limits(cpu_millis=1500, memory_bytes=_MEMORY))
    for directory in tree.directories(path):
        (directory / "cgroup.procs").write_text(str(pid))
    return Container(container_id, "main", Pod(f"pod-{number}", "bench", uid), pid)
