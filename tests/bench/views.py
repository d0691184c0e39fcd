# SPDX-License-Identifier: Apache-2.0
"""Reading meminfo in a container: our view, the kernel's own file, our root, Debian's lxcfs.

Four containers with the same memory limit run at once, and are read in turn: one that the view
agent covers, one that it leaves alone, and two with the file of a FUSE root: the lxcfs-compatible
one of the agent, and lxcfs' own. What each shows is checked first: a reader of the wrong file is
fast for nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from agents.standin.kubelet import EmbeddedKubelet
from agents.standin.pods import ContainerSpec, PodSpec, Volume
from agents.standin.runtime import ContainerRunner
from tests.bench.measure import (
    Context,
    Figure,
    Goal,
    NotHere,
    Of,
    Row,
    median,
    once,
    times_the_peer,
)
from tests.bench.workplace import Running, Workplace, cpu_s, needs, needs_kernel, workplace

_LIMIT = 512 << 20
_MEMINFO = "/proc/meminfo"
#: Where each container has the C program, and two of them the file of a root.
_TOOLS, _ROOT, _LXCFS = "/bench", "/bench-root", "/bench-lxcfs"
_PYTHON = "/usr/bin/python3"
#: Where lxcfs makes mount points of its own, and leaves them.
_LXCFS_OWN = Path("/run/lxcfs")
_PYTHON_READER = """
import sys, time
path, seconds, reads = sys.argv[1], float(sys.argv[2]), 0
started = time.monotonic()
while (passed := time.monotonic() - started) < seconds:
    open(path).read()
    reads += 1
print(reads / passed)
"""
#: One read after each pause, when caches and CPUs have cooled down; the median, in microseconds.
_COLD_READER = """
import os, statistics, sys, time
path, times, took = sys.argv[1], int(sys.argv[2]), []
for _ in range(times):
    time.sleep(0.12)
    started = time.perf_counter_ns()
    file = os.open(path, os.O_RDONLY)
    while os.read(file, 65536):
        pass
    os.close(file)
    took.append(time.perf_counter_ns() - started)
print(statistics.median(took) / 1000)
"""
#: The counter has steps of 10 ms, and a sweep a second goes on whether anybody reads or not.
_NOTHING_US = 0.1


@dataclass
class Subject:
    """One container that is read. `servers` is who could spend CPU time on a read."""

    name: str
    container_id: str
    path: str = _MEMINFO
    servers: tuple[int, ...] = ()
    rates: dict[int, list[float]] = field(default_factory=dict)
    p99_us: list[float] = field(default_factory=list)
    python_rates: list[float] = field(default_factory=list)
    cold_us: list[float] = field(default_factory=list)
    reads: int = 0
    cpu_s: float = 0.0


def measure(context: Context) -> Sequence[Row]:
    """Rows of reads a second, latency, and CPU time of whoever serves the file."""
    needs_kernel(context, views=True, fuse=True)
    with workplace(context) as place:
        place.compile("read")
        root = place.directory / "root"
        section = {"inject": {"exclude": ["uncovered"]}, "compat_root": str(root)}
        place.configure(lxcfs_helper=section)
        with place.cluster() as (kubelet, runner):
            agent = place.agent("view")
            agent.until_ready()
            servers = (agent.pid, *(p.pid for p in psutil.Process(agent.pid).children()))
            view = Subject("view", _start(place, kubelet, "covered"), servers=servers)
            agent.until(lambda: _total(runner, view) == _LIMIT, "the view shows the limit")
            kernel = Subject("kernel", _start(place, kubelet, "uncovered"))
            _check(runner, kernel, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
            agent.until(
                lambda: agent.status().get("compat_root", {}).get("state") == "served", "the root"
            )
            pid = agent.status()["compat_root"]["pid"]
            compatible = _root_subject("root", _ROOT, root, pid, place, kubelet, runner)
            with _lxcfs(place) as peer:
                subjects = [view, kernel, compatible]
                missing = peer if isinstance(peer, str) else ""
                if isinstance(peer, Running):
                    theirs = place.directory / "lxcfs"
                    subjects.append(
                        _root_subject("lxcfs", _LXCFS, theirs, peer.pid, place, kubelet, runner)
                    )
                _read_in_turn(context, runner, subjects)
    return _rows(subjects, missing)


def _rows(subjects: Sequence[Subject], missing: str) -> list[Row]:
    view, kernel, root, *rest = subjects
    lxcfs = rest[0] if rest else None
    rows = _rows_of_the_root(root, lxcfs, missing)
    for readers, times in ((1, 70), (4, 60)):
        what = f"open+read+close, {readers} reader{'s' * (readers > 1)}"
        ours = median(view.rates[readers], "reads/s")
        theirs = median(lxcfs.rates[readers], "reads/s") if lxcfs else None
        rows.append(Row(what, ours, "lxcfs", theirs, times_the_peer(times), missing))
        rows.append(Row(what, ours, "kernel", median(kernel.rates[readers], "reads/s")))
    rows.append(_latency(view, kernel))
    rows.append(_latency(view, lxcfs, missing))
    python = median(view.python_rates, "reads/s")
    if kernel.python_rates:
        rows.append(Row("Python open().read()", python, "kernel", median(kernel.python_rates, "")))
        theirs = median(lxcfs.python_rates, "") if lxcfs else None
        rows.append(Row("Python open().read()", python, "lxcfs", theirs, note=missing))
        cold = median(view.cold_us, "µs")
        note = "one read after 120 ms of rest"
        rows.append(Row("cold read", cold, "kernel", median(kernel.cold_us, "µs"), note=note))
        theirs = median(lxcfs.cold_us, "µs") if lxcfs else None
        rows.append(Row("cold read", cold, "lxcfs", theirs, note=missing or note))
    goal = Goal(f"0 (< {_NOTHING_US} µs)", Of.OURS, most=_NOTHING_US)
    theirs = _cpu_per_read(lxcfs) if lxcfs else None
    note = missing or "the agent's sweeps go on meanwhile, and are in it"
    rows.append(
        Row("CPU per read, of who serves it", _cpu_per_read(view), "lxcfs", theirs, goal, note)
    )
    return rows


def _rows_of_the_root(root: Subject, lxcfs: Subject | None, missing: str) -> list[Row]:
    """Caller-resolved, as lxcfs is: what is compared is the same work."""
    rows = []
    for readers, times in ((1, 1), (4, 0.9)):
        what = f"compatible root: open+read+close, {readers} reader{'s' * (readers > 1)}"
        ours = median(root.rates[readers], "reads/s")
        theirs = median(lxcfs.rates[readers], "reads/s") if lxcfs else None
        rows.append(Row(what, ours, "lxcfs", theirs, times_the_peer(times), missing))
    theirs = median(lxcfs.p99_us, "µs") if lxcfs else None
    p99 = median(root.p99_us, "µs")
    rows.append(Row("compatible root: latency, 1 reader, p99", p99, "lxcfs", theirs, note=missing))
    if root.python_rates:
        ours = median(root.python_rates, "reads/s")
        theirs = median(lxcfs.python_rates, "") if lxcfs else None
        what = "compatible root: Python open().read()"
        rows.append(Row(what, ours, "lxcfs", theirs, note=missing))
    theirs = _cpu_per_read(lxcfs) if lxcfs else None
    what = "compatible root: CPU per read, of who serves it"
    return [*rows, Row(what, _cpu_per_read(root), "lxcfs", theirs, note=missing)]


def _latency(view: Subject, peer: Subject | None, missing: str = "") -> Row:
    theirs = median(peer.p99_us, "µs") if peer else None
    name = peer.name if peer else "lxcfs"
    return Row("latency, 1 reader, p99", median(view.p99_us, "µs"), name, theirs, note=missing)


def _cpu_per_read(subject: Subject) -> Figure:
    return once(subject.cpu_s / subject.reads * 1e6, "µs")


def _read_in_turn(context: Context, runner: ContainerRunner, subjects: Sequence[Subject]) -> None:
    """Each repetition reads all of them: what disturbs one disturbs the others as well."""
    seconds = "0.2" if context.quick else "0.5"
    for _ in range(context.pick(7, 2)):
        for readers in (1, 4):
            for subject in subjects:
                _read(runner, subject, readers, seconds)
    has_python = Path(_PYTHON).exists()
    for _ in range(context.pick(5, 1) if has_python else 0):
        for subject in subjects:
            said = _run(runner, subject, [_PYTHON, "-c", _PYTHON_READER, subject.path, seconds])
            subject.python_rates.append(float(said))
            times = str(context.pick(10, 2))
            said = _run(runner, subject, [_PYTHON, "-c", _COLD_READER, subject.path, times])
            subject.cold_us.append(float(said))


def _read(runner: ContainerRunner, subject: Subject, readers: int, seconds: str) -> None:
    before = cpu_s(*subject.servers)
    said = _run(runner, subject, [f"{_TOOLS}/read", subject.path, seconds, str(readers)])
    subject.cpu_s += cpu_s(*subject.servers) - before
    result = json.loads(said)
    subject.reads += result["reads"]
    subject.rates.setdefault(readers, []).append(result["reads"] / result["seconds"])
    if readers == 1:
        subject.p99_us.append(result["p99_us"])


def _run(runner: ContainerRunner, subject: Subject, argv: Sequence[str]) -> str:
    result = runner.exec(subject.container_id, argv, timeout_s=20)
    if not result.ok:
        raise RuntimeError(f"in container {subject.name!r}: {result.describe()}")
    return result.output


def _start(place: Workplace, kubelet: EmbeddedKubelet, namespace: str, *volumes: Volume) -> str:
    """A container with a memory limit that does nothing; its id."""
    tools = Volume(place.directory, _TOOLS, read_only=True)
    spec = ContainerSpec("main", ["sleep", "3600"], volumes=[tools, *volumes], memory_bytes=_LIMIT)
    pod = kubelet.admit(PodSpec("reader", [spec], namespace=namespace))
    container_id = pod.containers[0].id
    if container_id is None:
        raise RuntimeError(f"the container in {namespace!r} did not start: {pod.message}")
    return container_id


def _total(runner: ContainerRunner, subject: Subject) -> int:
    """MemTotal in bytes, as this container sees it."""
    line = _run(runner, subject, ["grep", "^MemTotal:", subject.path])
    return int(line.split()[1]) * 1024


def _check(runner: ContainerRunner, subject: Subject, expected: int) -> None:
    if (shown := _total(runner, subject)) != expected:
        raise RuntimeError(f"{subject.name} shows MemTotal {shown}, not {expected}")


@contextmanager
def _lxcfs(place: Workplace) -> Iterator[Running | str]:
    """A daemon of our own on a private directory; or why there is none."""
    try:
        program = needs("lxcfs", "apt-get install lxcfs")
    except NotHere as lacking:
        yield str(lacking)
        return
    root = place.directory / "lxcfs"
    root.mkdir()
    was_there = _LXCFS_OWN.exists()
    daemon = place.start("lxcfs", [program, "-f", "-p", f"{root}.pid", str(root)])
    try:
        daemon.until((root / "proc/meminfo").exists, "serves")
        yield daemon
    finally:
        daemon.stop()
        if not was_there and _LXCFS_OWN.exists():
            for directory in (*_LXCFS_OWN.iterdir(), _LXCFS_OWN):
                directory.rmdir()


def _root_subject(
    name: str,
    at: str,
    root: Path,
    server: int,
    place: Workplace,
    kubelet: EmbeddedKubelet,
    runner: ContainerRunner,
) -> Subject:
    """A container that reads the file of a root at `at`."""
    volume = Volume(root / "proc/meminfo", at, read_only=True)
    subject = Subject(name, _start(place, kubelet, name, volume), at, (server,))
    _check(runner, subject, _LIMIT)
    return subject
