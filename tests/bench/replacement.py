# SPDX-License-Identifier: Apache-2.0
"""Mounts are replaced while a pod opens a file of them as fast as it can: how many opens fail.

One mount is served by a native client (bindfs), one by the passthrough file system. Each is
replaced again and again, as an operator does it with `nodeshare mounts replace`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from agents.command import NODESHARE, Result
from agents.standin.kubelet import EmbeddedKubelet
from agents.standin.pods import ContainerSpec, PodSpec, Volume, VolumePropagation
from agents.standin.runtime import ContainerRunner
from fuse_mounter.requests import Request, Verb, ask
from tests.bench.measure import Context, Figure, Row, at_most, median, once
from tests.bench.workplace import RunningAgent, Workplace, needs, needs_kernel, workplace

_DATA, _TOOLS = "/data", "/bench"
_LOAD_S = 60


def measure(context: Context) -> Sequence[Row]:
    """Rows of failed opens, and of seconds for one replacement."""
    needs_kernel(context, fuse=True)
    needs("bindfs", "apt-get install bindfs")
    times = context.pick(40, 3)
    rows: list[Row] = []
    with workplace(context) as place:
        place.compile("load")
        mounts = _mounts(place.directory)
        root = place.directory / "mounts"
        place.configure(fuse_mounter={"root": str(root), "mounts": mounts})
        with place.cluster() as (kubelet, runner):
            agent = place.agent("mounts")
            try:
                agent.until_ready()
                container_id = _pod(kubelet, place)
                for name in (mount["name"] for mount in mounts):
                    rows += _replace_under_load(place, runner, agent, container_id, name, times)
            finally:
                agent.stop()
                place.run([*NODESHARE, "mounts", "drain", "--all", "--config", str(place.config)])
    return rows


def _mounts(directory: Path) -> list[dict[str, Any]]:
    source = directory / "data"
    source.mkdir()
    (source / "file").write_text("still here\n")
    words = ["bindfs", "-f", str(source), "{mountpoint}"]
    return [
        {"name": "bindfs", "driver": "command", "path": "bindfs", "command": words},
        {"name": "passthrough", "driver": "passthrough", "path": "ours", "source": str(source)},
    ]


def _pod(kubelet: EmbeddedKubelet, place: Workplace) -> str:
    (place.directory / "tools").mkdir()
    os.link(place.directory / "load", place.directory / "tools/load")
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


def _replace_under_load(
    place: Workplace,
    runner: ContainerRunner,
    agent: RunningAgent,
    container_id: str,
    name: str,
    times: int,
) -> Sequence[Row]:
    path = {"bindfs": "bindfs", "passthrough": "ours"}[name]
    ready, stop = f"ready-{name}", f"stop-{name}"
    argv = [f"{_TOOLS}/load", f"{_DATA}/{path}/file", f"{_TOOLS}/{ready}", f"{_TOOLS}/{stop}"]
    seconds: list[float] = []
    with ThreadPoolExecutor(1) as pool:
        loading: Future[Result] = pool.submit(
            runner.exec, container_id, [*argv, str(_LOAD_S)], timeout_s=_LOAD_S + 5
        )
        tools = place.directory / "tools"
        agent.until(lambda: (tools / ready).exists() or loading.done(), f"{name} is read")
        for _ in range(times):
            reply = ask(place.node.run_dir, Request(Verb.REPLACE, name))
            if not reply.done:
                raise RuntimeError(f"{name}: {reply.text}")
            seconds.append(float(reply.text.partition(" in ")[2].partition(" s")[0]))
        (tools / stop).touch()
        result = loading.result()
    if not result.ok:
        raise RuntimeError(f"load on {name}: {result.describe()}")
    told = json.loads(result.output)
    note = f"{times} replacements, {told['opens']:,} opens"
    goal = at_most(0, "errors") if told["opens"] >= 2000 else None
    failed: Figure = once(told["errors"], "errors")
    return [
        Row(f"{name}: opens that fail while it is replaced", failed, goal=goal, note=note),
        Row(f"{name}: one replacement, from request to reply", median(seconds, "s")),
    ]
