# SPDX-License-Identifier: Apache-2.0
"""The three agents at the demonstration's work: start to ready, memory, idle CPU time.

Each is a process as in its own pod. What it starts beside itself (the namespace helper of each, the
holder, the clients of mounts) is counted for itself: it is not the agent, and it is not free.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import psutil

from agents.agent import installed
from agents.command import NODESHARE
from agents.standin import demonstration
from agents.standin.kubelet import EmbeddedKubelet
from agents.standin.pods import PodPhase
from agents.standin.runtime import ContainerRunner
from tests.bench.measure import Context, Row, at_most, median, once
from tests.bench.workplace import RunningAgent, Workplace, cpu_s, needs_kernel, workplace

_NOUNS = {"gpu": "gpu_plugin", "mounts": "fuse_mounter", "view": "lxcfs_helper"}
_MIB = 1 << 20
_PODS_S = 20.0
#: For what happens once: attaching views, the first probes, threads that end when they have rested.
_SETTLE_S = 12.0


@dataclass(frozen=True, slots=True)
class _Companion:
    """A process that serves an agent. `kind` is what it is."""

    kind: str
    process: psutil.Process


def measure(context: Context) -> Sequence[Row]:
    """Rows of seconds, MiB and percent of a core."""
    needs_kernel(context, views=True, fuse=True)
    with workplace(context) as place:
        data = demonstration.load(place.directory, free_ports=True)
        demonstration.prepare(place.directory, data)
        place.write(data["config"])
        with place.cluster() as (kubelet, runner):
            rows = [_starts(place, noun) for noun in _NOUNS]
            running = {noun: place.agent(noun) for noun in _NOUNS}
            try:
                for agent in running.values():
                    agent.until_ready()
                _run_pods(place, data, kubelet, runner)
                time.sleep(_SETTLE_S if not context.quick else 1.0)
                companions = _companions(running)
                rows += _memory(running, companions)
                rows += _idle(context, running, companions)
            finally:
                for agent in running.values():
                    agent.stop()
                for noun in running:
                    _clear(place, noun)
    return rows


def _starts(place: Workplace, noun: str) -> Row:
    """Nothing is there before: the mounter starts its holder and a client, too."""
    spent = []
    for _ in range(place.context.pick(5, 1)):
        before = time.monotonic()
        agent = place.agent(noun)
        try:
            agent.until_ready()
            spent.append(time.monotonic() - before)
        finally:
            agent.stop()
            _clear(place, noun)
    note = f"longest {max(spent):.2f} s"
    return Row(
        f"{_NOUNS[noun]}: start to ready", median(spent, "s"), goal=at_most(1, "s"), note=note
    )


def _clear(place: Workplace, noun: str) -> None:
    """Take away what outlives the agent."""
    (agent,) = (one for one in installed() if one.noun == noun)
    if agent.clear:
        place.run([*NODESHARE, *agent.clear, "--config", str(place.config)])


def _run_pods(
    place: Workplace,
    data: Mapping[str, object],
    kubelet: EmbeddedKubelet,
    runner: ContainerRunner,
) -> None:
    """The demonstration's pods, admitted and running; they do nothing."""
    shown = demonstration.Demonstration(place.directory, data, kubelet, runner)
    for view in shown.views.values():
        kubelet.create(view.pod.spec)
    running = kubelet.wait_for(
        lambda: all(kubelet.pod(key).phase is PodPhase.RUNNING for key in shown.views), _PODS_S
    )
    if not running:
        raise RuntimeError(f"not all pods run after {_PODS_S:g} s: {kubelet.pods()}")


def _companions(running: Mapping[str, RunningAgent]) -> list[_Companion]:
    agents = [psutil.Process(agent.pid) for agent in running.values()]
    found = []
    for process in (child for agent in agents for child in agent.children(recursive=True)):
        words = " ".join(process.cmdline())
        kinds = ("namespace_process", "probe_process", "holder", "passthrough")
        kind = next((kind for kind in kinds if kind in words), "other")
        found.append(
            _Companion(
                kind.replace("namespace_process", "namespace helper").replace("_", " "), process
            )
        )
    return found


def _memory(running: Mapping[str, RunningAgent], companions: Sequence[_Companion]) -> list[Row]:
    full = {noun: psutil.Process(agent.pid).memory_full_info() for noun, agent in running.items()}
    rows = [
        Row(f"{_NOUNS[noun]}: USS", once(info.uss / _MIB, "MiB"), goal=at_most(45, "MiB"))
        for noun, info in full.items()
    ]
    together = sum(info.pss for info in full.values()) / _MIB
    rows.append(Row("three agents together: PSS", once(together, "MiB"), goal=at_most(150, "MiB")))
    return rows + _of_companions(
        companions,
        "USS",
        "MiB",
        lambda group: [one.process.memory_full_info().uss / _MIB for one in group],
    )


def _idle(
    context: Context, running: Mapping[str, RunningAgent], companions: Sequence[_Companion]
) -> list[Row]:
    """Percent of a core. The pods hold no GPU memory and read nothing."""
    seconds = context.pick(20, 3)
    everyone = [agent.pid for agent in running.values()]
    everyone += [one.process.pid for one in companions]
    before = {pid: cpu_s(pid) for pid in everyone}
    started = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - started
    share = {pid: (cpu_s(pid) - spent) / passed * 100 for pid, spent in before.items()}
    note = f"over {seconds} s, counted in steps of {1 / seconds:.2g} %"
    rows = [
        Row(
            f"{_NOUNS[noun]}: idle CPU",
            once(share[agent.pid], "%"),
            goal=at_most(0.3, "%"),
            note=note,
        )
        for noun, agent in running.items()
    ]
    return rows + _of_companions(
        companions, "idle CPU", "%", lambda group: [share[one.process.pid] for one in group]
    )


def _of_companions(
    companions: Sequence[_Companion],
    what: str,
    unit: str,
    values: Callable[[Sequence[_Companion]], Sequence[float]],
) -> list[Row]:
    """One row a kind: the median of its processes."""
    rows = []
    for kind in sorted({one.kind for one in companions}):
        group = [one for one in companions if one.kind == kind]
        note = f"{len(group)} of them, median" if len(group) > 1 else ""
        rows.append(Row(f"beside them, {kind}: {what}", median(values(group), unit), note=note))
    return rows
