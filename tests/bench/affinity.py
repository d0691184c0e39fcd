# SPDX-License-Identifier: Apache-2.0
"""Calls that the listener answers: what one costs, what many at once do, and what starts cost.

Containers made by runc, with the same seccomp profile: once as it is, once with our notifications.
So the difference is the notification, and not the filter. Both have the same limit of CPU time, and
are measured in turn. `holder` is the same container while no agent runs: its calls continue with
the kernel's own answer.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.hostfs import seccomp_socket
from tests.bench.measure import Context, Figure, Goal, NotHere, Row, at_most, median, once, quantile
from tests.bench.workplace import needs, needs_kernel, workplace
from tests.fakes.real_container import LIMITS_AVAILABLE, eventually
from tests.fakes.runc_container import RuncContainer
from tests.fakes.runc_node import RuncNode

_TOOLS = "/bench"
_SECTION = "{affinity: {enabled: true}}"
_PYTHON = "/usr/bin/python3"
_THREADS = (1, 4, 32)
_MEMORY = 1 << 30
#: When it began, and what it saw. How long runc takes to clear up goes in steps of 50 ms.
_FIRST = "date +%s.%N; while read -r name size unit; do echo $size; break; done </proc/meminfo"


@dataclass
class _Series:
    """Repetitions of one thing in one container, as `calls` tells them."""

    rates: list[float] = field(default_factory=list)
    p50_us: list[float] = field(default_factory=list)
    p99_us: list[float] = field(default_factory=list)

    def add(self, said: str) -> None:
        result = json.loads(said)
        self.rates.append(result["calls"] / result["seconds"])
        self.p50_us.append(result["p50_us"])
        self.p99_us.append(result["p99_us"])


def measure(context: Context) -> Sequence[Row]:
    """Rows of microseconds, calls a second, and milliseconds."""
    needs_kernel(context, views=True)
    needs("runc", "apt-get install runc")
    if not LIMITS_AVAILABLE:
        raise NotHere("no memory and cpu controllers here")
    with workplace(context) as place:
        tools = place.directory / "tools"
        tools.mkdir()
        shutil.move(place.compile("calls"), tools / "calls")
        node = RuncNode(_made(place.directory / "node"), _SECTION)
        try:
            return [*_rows(context, node, tools)]
        finally:
            node.close()


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _rows(context: Context, node: RuncNode, tools: Path) -> Iterator[Row]:
    node.start()
    profile = node.kubelet_dir / "seccomp/nodeshare/runtime-default.json"
    eventually(profile.exists, "the profile installed", 30)
    eventually(seccomp_socket(node.run_dir).exists, "the holder listens", 30)
    notified = json.loads(profile.read_text())
    fields: dict[str, Any] = {"binds": {_TOOLS: tools}, "memory": _MEMORY, "cpus": 1.0}
    yield from _starts_of_containers(context, node, {**fields}, notified)
    plain = node.make("plain", **fields, seccomp=_without(notified))
    ours = node.make("ours", **fields, seccomp=notified)
    if (said := ours.run("nproc").strip()) != "1":
        raise RuntimeError(f"nproc says {said}, not 1")
    yield from _calls(context, plain, ours)
    yield from _starts(context, plain, ours)
    node.kill()
    yield from _abandoned(context, plain, ours)


def _without(profile: dict[str, Any]) -> dict[str, Any]:
    """The same filter, with the calls allowed."""
    rules = [
        {**rule, "action": rule["action"].replace("NOTIFY", "ALLOW")}
        for rule in profile["syscalls"]
    ]
    kept = {key: value for key, value in profile.items() if not key.startswith("listener")}
    return {**kept, "syscalls": rules}


def _calls(context: Context, plain: RuncContainer, ours: RuncContainer) -> Iterator[Row]:
    for call in ("affinity", "sysinfo"):
        for threads in _THREADS if call == "affinity" else (1,):
            series = _in_turn(
                (plain, ours),
                [call, "0.2" if context.quick else "0.5", str(threads)],
                context.pick(7, 2),
            )
            many = f", {threads} threads at once" if threads > 1 else ""
            yield from _told(f"{call}{many}", *series)


def _told(what: str, native: _Series, ours: _Series) -> Iterator[Row]:
    yield Row(f"{what}: one call, p50", median(ours.p50_us, "µs"), "native", _us(native.p50_us))
    yield Row(f"{what}: one call, p99", median(ours.p99_us, "µs"), "native", _us(native.p99_us))
    rates = median(ours.rates, "calls/s")
    yield Row(f"{what}: all together", rates, "native", median(native.rates, "calls/s"))


def _starts(context: Context, plain: RuncContainer, ours: RuncContainer) -> Iterator[Row]:
    """Programs that are started in a container that has run for a while."""
    programs: list[tuple[str, list[str], int]] = [("true", ["/usr/bin/true"], 50)]
    if Path(_PYTHON).exists():
        programs.append(("python -c ''", [_PYTHON, "-c", ""], 5))
    if java := shutil.which("java"):
        programs.append(("java -version", [java, "-version"], 1))
    for name, argv, times in programs:
        words = ["start", str(times), *argv]
        native, notified = _in_turn((plain, ours), words, context.pick(25, 2))
        goal = at_most(30, "µs") if name == "true" else None
        yield _more(f"start of {name}", native.p50_us, notified.p50_us, "µs", goal)


def _more(
    what: str, native: Sequence[float], ours: Sequence[float], unit: str, goal: Goal | None
) -> Row:
    """What is added to what it takes without us: the two were measured right after each other."""
    whole = f"in all {median(ours, unit)}, without {median(native, unit)}"
    added = median([mine - theirs for mine, theirs in zip(ours, native, strict=True)], unit)
    return Row(f"added to the {what}", added, goal=goal, note=whole)


def _abandoned(context: Context, plain: RuncContainer, ours: RuncContainer) -> Iterator[Row]:
    if ours.run("nproc") != plain.run("nproc"):
        raise RuntimeError("somebody still answers")
    words = ["affinity", "0.2" if context.quick else "0.5", "1"]
    native, held = _in_turn((plain, ours), words, context.pick(5, 2))
    what = "affinity, without an agent (the holder): one call, p50"
    yield Row(what, median(held.p50_us, "µs"), "native", _us(native.p50_us))


def _starts_of_containers(
    context: Context, node: RuncNode, fields: dict[str, Any], notified: dict[str, Any]
) -> Iterator[Row]:
    """With views from the first instruction on, against the same filter without any."""
    took: dict[str, list[float]] = {"plain": [], "ours": []}
    profiles = {"plain": _without(notified), "ours": notified}
    fields = {**fields, "command": ["/bin/sh", "-c", _FIRST]}
    for number in range(context.pick(25, 3)):
        for name, profile in profiles.items():
            one = node.make(f"{name}-{number}", **fields, seccomp=profile, starts=False)
            started = time.time()
            at, memory = one.run_once().split()
            took[name].append((float(at) - started) * 1000)
            node.remove(one)
            if (memory == str(_MEMORY >> 10)) is not (name == "ours"):
                raise RuntimeError(f"the first instructions of {name} saw {memory} kB of memory")
    yield _more("start of a container", took["plain"], took["ours"], "ms", at_most(10, "ms"))
    yield _held(node.metrics())
    worst = (quantile(took[name], 1.0, "ms") for name in ("ours", "plain"))
    yield Row("runc run to the first instruction, worst", next(worst), "plain", next(worst))


def _held(metrics: str) -> Row:
    """The agent's own measure: for no longer than this the half of them waited."""
    found = re.findall(r'_affinity_held_seconds_bucket\{le="([0-9.]+)"\} ([0-9.]+)', metrics)
    buckets = [(float(bound), float(count)) for bound, count in found]
    half = buckets[-1][1] / 2
    bound = next(bound for bound, count in buckets if count >= half)
    what = "a container's first program held for its views, p50 (a bucket's bound)"
    return Row(what, once(bound * 1000, "ms"))


def _in_turn(
    containers: tuple[RuncContainer, RuncContainer], words: Sequence[str], times: int
) -> tuple[_Series, _Series]:
    """What disturbs one disturbs the other as well."""
    found = (_Series(), _Series())
    for _ in range(times):
        for one, series in zip(containers, found, strict=True):
            series.add(one.run(f"{_TOOLS}/calls", *words))
    return found


def _us(values: Sequence[float]) -> Figure:
    return median(values, "µs")
