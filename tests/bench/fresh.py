# SPDX-License-Identifier: Apache-2.0
"""How soon views follow what happens, and what the agent costs while nobody reads.

Containers of the stand-in, the agent as a process. A container is started when its program runs; it
is covered when its mount table shows the first file of ours. A limit is shown when the file says
so; what is read is this process's view of the same file. The age of what a reader sees is the time
since the file was written, as a reader in the container finds it who uses memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from agents.hostfs import PROC
from agents.standin.kubelet import EmbeddedKubelet
from agents.standin.pods import ContainerSpec, PodSpec
from agents.standin.runtime import ContainerRunner
from tests.bench.measure import Context, Row, at_most, median, once, quantile
from tests.bench.workplace import RunningAgent, Workplace, cpu_s, needs_kernel, workplace

_PYTHON = "/usr/bin/python3"
#: Sees how old meminfo gets, read every 50 ms; the first two seconds do not count. A file is not
#: written again while what it says is true, so it uses more and less memory all the time.
_AGES = """
import os, random, sys, time
end, oldest = time.time() + float(sys.argv[1]), 0
begin = time.time() + 2
while (now := time.time()) < end:
    used = b"x" * random.randrange(1 << 20, 16 << 20)
    with open("/proc/meminfo") as file:
        file.read()
        if now > begin:
            oldest = max(oldest, now - os.fstat(file.fileno()).st_mtime)
    time.sleep(0.05)
print(oldest)
"""
#: Nobody is taken to read any more after this time.
_UNREAD_S = 12.0


def measure(context: Context) -> Sequence[Row]:
    """Rows of milliseconds, seconds of age, and shares of a core."""
    needs_kernel(context, views=True)
    with workplace(context) as place:
        place.configure(lxcfs_helper={})
        with place.cluster() as (kubelet, runner):
            agent = place.agent("view")
            agent.until_ready()
            time.sleep(1)
            rows = [*_follows(context, place, kubelet, runner)]
            if Path(_PYTHON).exists():
                rows.append(_age(context, kubelet, runner))
            return [*rows, *_idle(context, agent, kubelet, runner)]


def _follows(
    context: Context, place: Workplace, kubelet: EmbeddedKubelet, runner: ContainerRunner
) -> Iterator[Row]:
    started, resized = [], []
    for number in range(context.pick(20, 3)):
        container_id, pid = _start(kubelet, runner, "follows")
        table = PROC / str(pid) / "mountinfo"
        started.append(_ms_until(lambda table=table: "nodeshare-views" in table.read_text()))  # type: ignore[misc]  # bound now
        time.sleep(0.3)
        memory = (128 + number) << 20
        runner.update_limits(container_id, memory_bytes=memory)
        file = place.node.run_dir / "views" / container_id / "meminfo"
        shown = f"{memory >> 10} kB"
        resized.append(_ms_until(lambda file=file, shown=shown: shown in file.read_text()))  # type: ignore[misc]  # bound now
        runner.remove(container_id)
    goal = at_most(200, "ms")
    for what, values in (("started → covered", started), ("limit set → shown", resized)):
        yield Row(f"container {what}", median(values, "ms"), goal=goal)
        yield Row(f"container {what}, worst", quantile(values, 1.0, "ms"))


def _age(context: Context, kubelet: EmbeddedKubelet, runner: ContainerRunner) -> Row:
    container_id, _ = _start(kubelet, runner, "read")
    seconds = context.pick(12, 4)
    argv = [_PYTHON, "-c", _AGES, str(seconds)]
    done = runner.exec(container_id, argv, timeout_s=seconds + 20)
    if not done.ok:
        raise RuntimeError(done.describe())
    runner.remove(container_id)
    return Row(
        "oldest value that a reader saw", once(float(done.output), "s"), goal=at_most(1, "s")
    )


def _idle(
    context: Context, agent: RunningAgent, kubelet: EmbeddedKubelet, runner: ContainerRunner
) -> Iterator[Row]:
    """CPU time of all of the agent's processes while containers sleep."""
    seconds = context.pick(20, 2)
    running: list[str] = []
    for count in (0, 1, 10, 110) if not context.quick else (1, 3):
        while len(running) < count:
            running.append(_start(kubelet, runner, "idle")[0])
        agent.until(lambda count=count: _covered(agent) >= count, "all are covered")  # type: ignore[misc]  # bound now
        time.sleep(0 if context.quick else _UNREAD_S)
        pids = [agent.pid, *(child.pid for child in psutil.Process(agent.pid).children())]
        before = cpu_s(*pids)
        time.sleep(seconds)
        share = (cpu_s(*pids) - before) / seconds * 100
        goal = at_most(0.3, "% of a core")
        yield Row(f"idle, {count} containers", once(share, "% of a core"), goal=goal)


def _covered(agent: RunningAgent) -> int:
    rows = agent.status().get("containers", ())
    return sum("attached" in row["views"].values() for row in rows)


def _start(kubelet: EmbeddedKubelet, runner: ContainerRunner, name: str) -> tuple[str, int]:
    """A container with limits that does nothing: its id and its process."""
    spec = ContainerSpec("main", ["sleep", "3600"], memory_bytes=64 << 20, cpu_millis=500)
    pod = kubelet.admit(PodSpec(f"{name}-{time.monotonic_ns()}", [spec], namespace="bench"))
    container_id = pod.containers[0].id
    for running in runner.containers():
        if running.start.id == container_id:
            return container_id, running.pid
    raise RuntimeError(f"the container {name!r} did not start: {pod.message}")


def _ms_until(condition: Callable[[], bool]) -> float:
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > 10:
            raise RuntimeError("not within 10 s")
        time.sleep(0.002)
    return (time.monotonic() - began) * 1000
