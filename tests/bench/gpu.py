# SPDX-License-Identifier: Apache-2.0
"""The GPU plugin over its real sockets: the kubelet's calls, a kubelet that restarts, a scrape.

The agent is a process, its machine is simulated, the kubelet is the embedded one. Calls are timed
at this end of the socket, with requests that were serialised before, because the kubelet's end is
not ours; parsing the answer is in it. What the socket and both ends cost for nothing is beside it:
the same call with an empty request and an empty answer.

How the cost grows is measured twice: with the number of units of eight GPUs, and with the number of
devices, from one GPU to sixteen in seven slices each.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import yaml

from agents import unix_grpc
from agents._pb.deviceplugin import v1beta1_pb2 as pb
from agents._pb.deviceplugin.v1beta1_pb2_grpc import DevicePluginStub
from agents.standin.kubelet import EmbeddedKubelet, EventKind
from agents.standin.pods import ContainerSpec, PodPhase, PodSpec
from gpu_plugin import units
from gpu_plugin.endpoint import socket_path
from gpu_plugin.simulated.description import load_machine
from tests.bench.measure import Context, Figure, Row, at_most, median, quantile
from tests.bench.workplace import RunningAgent, Workplace, workplace
from tests.fakes.runtime import FakeRuntime

_RESOURCE = "nodeshare/gpu-memory"
#: What a pod asks for.
_SIZE = 8
_PODS = 200
_CALL_S = 30.0
_LIST_S = 20.0


@dataclass(frozen=True, slots=True)
class _Cut:
    """A machine and how finely it is cut. `p99_ms` is what the design asks of it (None: this is
    measured to see how the cost grows).
    """

    gpus: int
    slices: int
    units_each: int
    memory_mib: int
    p99_ms: float | None = None

    @property
    def devices(self) -> int:
        return self.gpus * max(1, self.slices)

    @property
    def total(self) -> int:
        return self.devices * self.units_each

    @property
    def title(self) -> str:
        parts = f" x {self.slices} slices" if self.slices else ""
        return f"{self.total:,} units, {self.gpus} GPUs{parts}"

    def machine(self) -> dict[str, Any]:
        gpu: dict[str, Any] = {"model": "Bench GPU", "count": self.gpus}
        if self.slices:
            gpu |= {"memory": f"{8 * self.memory_mib}MiB", "mig": "enabled"}
            gpu["slices"] = [
                {"profile": "1g.10gb", "gpu_instance": number, "memory": f"{self.memory_mib}MiB"}
                for number in range(self.slices)
            ]
        else:
            gpu["memory"] = f"{self.memory_mib}MiB"
        return {"name": "bench", "driver_version": "580.95.05", "gpus": [gpu]}

    def rule(self) -> dict[str, Any]:
        return {"name": _RESOURCE, "chunk": f"{self.memory_mib // self.units_each}MiB"}


_SMALL = _Cut(8, 0, 320, 75_000, p99_ms=2)
_LARGE = _Cut(8, 0, 7500, 75_000, p99_ms=25)
#: From 320 units to 60,000 on the same GPUs, and from 7 devices to 112 with units of one size.
_GROWTH = (
    _Cut(8, 0, 40, 75_000),
    _Cut(8, 0, 1250, 75_000),
    _Cut(1, 7, 9, 9728),
    _Cut(4, 7, 9, 9728),
    _Cut(16, 7, 9, 9728),
    _Cut(16, 7, 540, 9728),
)


def measure(context: Context) -> Sequence[Row]:
    """Rows for 2,560 units and for 60,000, and how the cost grows from less to more."""
    rows = []
    with workplace(context) as place:
        for cut in (_SMALL, _LARGE, *_GROWTH):
            with _served(place, cut) as (kubelet, agent):
                rows += _calls(context, place, cut)
                if cut.p99_ms is not None:
                    rows.append(_restarts(context, kubelet, cut))
                if cut is _SMALL:
                    rows.append(_scrapes(context, kubelet, agent))
    return rows


@contextmanager
def _served(place: Workplace, cut: _Cut) -> Iterator[tuple[EmbeddedKubelet, RunningAgent]]:
    """A registered agent whose list the kubelet has."""
    machine = place.directory / "machine.yaml"
    machine.write_text(yaml.safe_dump({"machine": cut.machine()}))
    place.configure(gpu_plugin={"simulate": str(machine), "resources": [cut.rule()]})
    # Pods without processes: the agent is measured, not the container runner.
    kubelet = EmbeddedKubelet(place.node.kubelet_dir, FakeRuntime())
    kubelet.start()
    try:
        agent = place.agent("gpu")
        try:
            agent.until(lambda: _allocatable(kubelet) == cut.total, f"{cut.total} units listed")
            agent.until_ready()
            yield kubelet, agent
        finally:
            agent.stop()
            # No pod came of what was measured; the next agent need not find that out first.
            shutil.rmtree(place.node.state_dir / "gpu")
    finally:
        kubelet.stop()


def _allocatable(kubelet: EmbeddedKubelet) -> int:
    known = kubelet.resources().get(_RESOURCE)
    return known.allocatable if known else 0


def _calls(context: Context, place: Workplace, cut: _Cut) -> list[Row]:
    calls = context.pick(200 if cut is _LARGE else 1000, 20)
    machine = load_machine(place.directory / "machine.yaml")
    uuids = [each.uuid for gpu in machine.gpus for each in gpu.slices or (gpu,)]
    available = [id_ for uuid in uuids for id_ in units.unit_ids(uuid, cut.units_each)]
    # The kubelet keeps them in a set: in no order.
    random.Random(1).shuffle(available)
    prefer = pb.PreferredAllocationRequest(
        container_requests=[
            pb.ContainerPreferredAllocationRequest(
                available_deviceIDs=available, allocation_size=_SIZE
            )
        ]
    ).SerializeToString()
    socket = socket_path(place.node.kubelet_dir / "device-plugins", _RESOURCE)
    with unix_grpc.channel(socket) as channel:
        ask: Callable[..., pb.PreferredAllocationResponse] = channel.unary_unary(
            "/v1beta1.DevicePlugin/GetPreferredAllocation",
            response_deserializer=pb.PreferredAllocationResponse.FromString,
        )

        def preferred() -> Sequence[str]:
            answer = ask(prefer, timeout=_CALL_S)
            return list(answer.container_responses[0].deviceIDs)

        chosen = preferred()
        if len(chosen) != _SIZE:
            raise RuntimeError(f"asked for {_SIZE} units, {len(chosen)} were preferred")
        plugin = DevicePluginStub(channel)
        allocate = pb.AllocateRequest(
            container_requests=[pb.ContainerAllocateRequest(devices_ids=chosen)]
        )
        empty = _timed(lambda: plugin.GetDevicePluginOptions(pb.Empty(), timeout=_CALL_S), calls)
        asked = _timed(preferred, calls)
        given = _timed(lambda: plugin.Allocate(allocate, timeout=_CALL_S), calls)
    size = f"request of {len(prefer):,} bytes"
    return [
        *_quantiles(f"GetPreferredAllocation of {_SIZE}: {cut.title}", asked, empty, cut, size),
        *_quantiles(f"Allocate of {_SIZE}: {cut.title}", given, empty, cut, ""),
    ]


def _quantiles(
    what: str, spent: Sequence[float], empty: Sequence[float], cut: _Cut, note: str
) -> list[Row]:
    p50, p99 = quantile(spent, 0.5, "ms"), quantile(spent, 0.99, "ms")
    rows = [Row(f"{what}, p50", p50, "empty call", quantile(empty, 0.5, "ms"), note=note)]
    if cut.p99_ms is not None:
        goal = at_most(cut.p99_ms, "ms")
        rows.append(Row(f"{what}, p99", p99, "empty call", quantile(empty, 0.99, "ms"), goal))
    return rows


def _timed(call: Callable[[], object], count: int) -> list[float]:
    """Milliseconds of each call, after a few that are not counted."""
    for _ in range(3):
        call()
    spent = []
    for _ in range(count):
        before = time.perf_counter()
        call()
        spent.append((time.perf_counter() - before) * 1000)
    return spent


def _restarts(context: Context, kubelet: EmbeddedKubelet, cut: _Cut) -> Row:
    """From the new socket of a restarted kubelet to the moment it has our list."""
    spent = []
    for _ in range(context.pick(10, 2)):
        before = len(kubelet.events.of(EventKind.LISTED, _RESOURCE))
        kubelet.restart()
        if not kubelet.wait_for(lambda: _listed(kubelet) > before, _LIST_S):  # noqa: B023 -- ends here
            raise RuntimeError(f"not listed within {_LIST_S:g} s after a restart of the kubelet")
        listed = kubelet.events.of(EventKind.LISTED, _RESOURCE)[before]
        made = (context.directory / "kubelet/device-plugins/kubelet.sock").stat().st_ctime
        spent.append(listed.at - made)
        # What it does after that is not to meet the next restart.
        time.sleep(0.2)
    what = f"kubelet socket made anew → {cut.total:,} units listed"
    return Row(what, median(spent, "s"), goal=at_most(0.5, "s"), note=f"longest {max(spent):.2f} s")


def _listed(kubelet: EmbeddedKubelet) -> int:
    return len(kubelet.events.of(EventKind.LISTED, _RESOURCE))


def _scrapes(context: Context, kubelet: EmbeddedKubelet, agent: RunningAgent) -> Row:
    for number in range(_PODS):
        container = ContainerSpec("main", ["sleep"], resources={_RESOURCE: _SIZE})
        pod = kubelet.admit(PodSpec(f"pod-{number}", [container]))
        if pod.phase is not PodPhase.RUNNING:
            raise RuntimeError(f"pod {number}: {pod.message}")
    agent.until(lambda: _holders(agent) == _PODS, f"{_PODS} pods known")
    spent = _timed(agent.scrape, context.pick(100, 10))
    return Row(
        f"scrape, {_SMALL.gpus} GPUs and {_PODS} containers, p99",
        _p99(spent),
        goal=at_most(10, "ms"),
        note=f"{len(agent.scrape()) / 1024:.0f} KiB; from connecting to the last byte",
    )


def _p99(spent: Sequence[float]) -> Figure:
    return quantile(spent, 0.99, "ms")


def _holders(agent: RunningAgent) -> int:
    return sum(len(device["holders"]) for device in agent.status().get("devices", ()))
