# SPDX-License-Identifier: Apache-2.0
"""What it costs to look after 5, 50 and 200 mounts: CPU time while nothing happens, and memory.

The mounts are binds of local directories, so that what is counted is the agent's own work: rounds,
mount table, probes. The process that asks the mounts is a child of the agent, and counted too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import psutil

from agents.command import NODESHARE
from tests.bench.measure import Context, Row, at_most, once
from tests.bench.workplace import RunningAgent, Workplace, needs_kernel, workplace

_MIB = 1 << 20
#: The goal of an agent, whatever it looks after.
_MEMORY = at_most(45, "MiB")


def measure(context: Context) -> Sequence[Row]:
    """Rows of milliseconds of CPU time for a second, seconds until all are there, and MiB."""
    needs_kernel(context)
    rows: list[Row] = []
    for count in (5, 50, 200):
        with workplace(context) as place:
            rows += _with(place, context, count)
    return rows


def _with(place: Workplace, context: Context, count: int) -> Sequence[Row]:
    mounts = []
    for number in range(count):
        source = place.directory / "data" / f"m{number}"
        source.mkdir(parents=True)
        name = f"m{number}"
        mounts.append({"name": name, "driver": "bind", "source": str(source), "path": name})
    root = str(place.directory / "mounts")
    place.configure(fuse_mounter={"root": root, "mounts": mounts})
    started = time.monotonic()
    agent = place.agent("mounts")
    try:
        agent.until_ready()
        ready_s = time.monotonic() - started
        time.sleep(1)
        seconds = context.pick(30, 3)
        before = _cpu_s(agent)
        time.sleep(seconds)
        used_ms = (_cpu_s(agent) - before) * 1000 / seconds
        memory = psutil.Process(agent.pid).memory_full_info().uss / _MIB
    finally:
        agent.stop()
        place.run([*NODESHARE, "mounts", "drain", "--all", "--config", str(place.config)])
    what = f"{count} mounts"
    return [
        Row(f"{what}: start of the agent → all published", once(ready_s, "s")),
        Row(
            f"{what}: CPU time for a second in which nothing happens",
            once(used_ms, "ms"),
            note="in steps of 10 ms over the whole time; with the process that probes",
        ),
        Row(f"{what}: unique memory of the agent", once(memory, "MiB"), goal=_MEMORY),
    ]


def _cpu_s(agent: RunningAgent) -> float:
    """Of the agent and its children, those that have ended included."""
    processes = [psutil.Process(agent.pid), *psutil.Process(agent.pid).children(recursive=True)]
    times = [process.cpu_times() for process in processes]
    return sum(one.user + one.system + one.children_user + one.children_system for one in times)
