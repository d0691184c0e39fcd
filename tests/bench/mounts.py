# SPDX-License-Identifier: Apache-2.0
"""A mount client is killed: how long until its file can be read again in a pod that runs already.

Every client is killed once, with SIGKILL, one after the other: a client that dies again and again
is waited with, and that is not what is measured here. A program in the pod reads the file all the
time; what it saw is compared with the moment of the kill.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from agents import processes
from agents.command import NODESHARE, Result
from agents.standin.kubelet import EmbeddedKubelet
from agents.standin.pods import ContainerSpec, PodSpec, Volume, VolumePropagation
from agents.standin.runtime import ContainerRunner
from tests.bench.measure import Context, Row, at_most, median, quantile
from tests.bench.workplace import RunningAgent, Workplace, needs, needs_kernel, workplace

_TEXT = "still here\n"
#: Where the pod has the shared root of all mounts, and the program that watches.
_DATA, _TOOLS = "/data", "/bench"
_WATCH_S = 15
#: By the kind of client: a native one, and our own, which is a program in Python.
_GOALS_MS = {"bindfs": 100, "passthrough": 1000}


def measure(context: Context) -> Sequence[Row]:
    """Rows of milliseconds from the kill to the first read, and between two reads."""
    needs_kernel(context, fuse=True)
    needs("bindfs", "apt-get install bindfs")
    count = context.pick(10, 3)
    kinds = {kind: [f"{kind}{number}" for number in range(count)] for kind in _GOALS_MS}
    names = [name for of_kind in kinds.values() for name in of_kind]
    with workplace(context) as place:
        place.compile("watch")
        place.configure(fuse_mounter=_section(place.directory, names))
        with place.cluster() as (kubelet, runner):
            agent = place.agent("mounts")
            try:
                agent.until_ready()
                container_id = _pod(kubelet, place)
                seen = {n: _kill_and_watch(place, runner, agent, container_id, n) for n in names}
                agent.until_ready()
            finally:
                agent.stop()
                # Mounts and their holder outlive the agent; the holder's cgroups are its own.
                place.run([*NODESHARE, "mounts", "drain", "--all", "--config", str(place.config)])
    return [row for kind in kinds for row in _rows(kind, [seen[name] for name in kinds[kind]])]


def _rows(kind: str, seen: Sequence[tuple[float, float]]) -> Sequence[Row]:
    after_kill = [back for back, _ in seen]
    unreadable = [gap for _, gap in seen]
    note, goal = f"{len(seen)} clients, each killed once", at_most(_GOALS_MS[kind], "ms")
    what = f"{kind} killed → file readable in a running pod"
    return [
        Row(f"{what}, median", median(after_kill, "ms"), goal=goal, note=note),
        Row(f"{what}, longest", quantile(after_kill, 1, "ms"), goal=goal, note=note),
        Row("of it, reads that failed, median", median(unreadable, "ms"), note=note),
    ]


def _section(directory: Path, names: Sequence[str]) -> Mapping[str, Any]:
    mounts: list[Mapping[str, Any]] = []
    for name in names:
        source = directory / "data" / name
        source.mkdir(parents=True)
        (source / "file").write_text(_TEXT)
        if name.startswith("bindfs"):
            words = ["bindfs", "-f", str(source), "{mountpoint}"]
            mounts.append({"name": name, "driver": "command", "path": name, "command": words})
        else:
            entry = {"name": name, "driver": "passthrough", "source": str(source), "path": name}
            mounts.append(entry)
    return {"root": str(directory / "mounts"), "mounts": mounts}


def _pod(kubelet: EmbeddedKubelet, place: Workplace) -> str:
    """A pod that sees all mounts, as HostToContainer lets it; its container's id."""
    (place.directory / "tools").mkdir()
    os.link(place.directory / "watch", place.directory / "tools/watch")
    volumes = [
        Volume(place.directory / "mounts", _DATA, propagation=VolumePropagation.HOST_TO_CONTAINER),
        Volume(place.directory / "tools", _TOOLS),
    ]
    pod = kubelet.admit(
        PodSpec("reader", [ContainerSpec("main", ["sleep", "3600"], volumes=volumes)])
    )
    container_id = pod.containers[0].id
    if container_id is None:
        raise RuntimeError(f"the pod did not start: {pod.message}")
    return container_id


def _kill_and_watch(
    place: Workplace, runner: ContainerRunner, agent: RunningAgent, container_id: str, name: str
) -> tuple[float, float]:
    """Milliseconds from the kill, and from the first failed read, to the first that went well."""
    ready = f"{_TOOLS}/ready-{name}"
    argv = [f"{_TOOLS}/watch", f"{_DATA}/{name}/file", ready, str(_WATCH_S)]
    with ThreadPoolExecutor(1) as pool:
        watching: Future[Result] = pool.submit(
            runner.exec, container_id, argv, timeout_s=_WATCH_S + 5
        )
        begun = place.directory / "tools" / Path(ready).name
        agent.until(lambda: begun.exists() or watching.done(), f"{name} is watched")
        killed_ns = _kill_client(place, agent, name)
        result = watching.result()
    if not result.ok:
        raise RuntimeError(f"watching {name}: {result.describe()}")
    told = json.loads(result.output)
    if told["lost_ns"] < killed_ns:
        raise RuntimeError(f"{name} could not be read before its client was killed: {told}")
    return (told["back_ns"] - killed_ns) / 1e6, (told["back_ns"] - told["lost_ns"]) / 1e6


def _kill_client(place: Workplace, agent: RunningAgent, name: str) -> int:
    """When it was killed, in nanoseconds of the monotonic clock."""
    (mount,) = (one for one in agent.status()["mounts"] if one["name"] == name)
    proc = place.context.host.proc
    key = processes.identify(proc, mount["client_pid"])
    killed_ns = time.monotonic_ns()
    if key is None or not processes.signal_process(proc, key, signal.SIGKILL):
        raise RuntimeError(f"the client of {name} was gone before it was killed")
    return killed_ns
