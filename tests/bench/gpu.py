# SPDX-License-Identifier: Apache-2.0
"""The GPU plugin over its real sockets: the kubelet's calls, a kubelet that restarts, a scrape.

The agent is a process, its machine is simulated (eight GPUs in small and in very small units), the
kubelet is the embedded one. Calls are timed at this end of the socket: serialising the request and
parsing the answer are in it, and this end is Python too. What the socket and both ends cost for
nothing is beside it: the same call with an empty request and an empty answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import yaml

from agents import unix_grpc
from agents._pb.deviceplugin import v1beta1_pb2 as pb
from agents._pb.deviceplugin.v1beta1_pb2_grpc import DevicePluginStub
from agents.standin.kubelet import EmbeddedKubelet, EventKind
from agents.standin.pods import ContainerSpec, PodPhase, PodSpec
from gpu_plugin import units
from gpu_plugin.server import socket_path
from gpu_plugin.simulated.description import load_machine
from tests.bench.measure import Context, Figure, Row, at_most, median, quantile
from tests.bench.workplace import RunningAgent, Workplace, workplace
from tests.fakes.runtime import FakeRuntime

_RESOURCE = "nodeshare/gpu-memory"
_GPUS = 8
_MEMORY_MIB = 75_000
#: What a pod asks for.
_SIZE = 8
_PODS = 200
_CALL_S = 30.0
_LIST_S = 20.0


@dataclass(frozen=True, slots=True)
class _Units:
    """How finely the GPUs are cut, and what the design asks of it."""

    per_gpu: int
    p99_ms: float
    calls: int

    @property
    def total(self) -> int:
        return _GPUS * self.per_gpu

    @property
    def chunk(self) -> str:
        return f"{_MEMORY_MIB // self.per_gpu}MiB"


def measure(context: Context) -> Sequence[Row]:
    """Rows for 2,560 units, and again for 60,000."""
    small = _Units(320, 2, context.pick(1000, 100))
    large = _Units(7500, 25, context.pick(200, 20))
    rows = []
    with workplace(context) as place:
        for cut in (small, large):
            with _served(place, cut) as (kubelet, agent):
                rows += _calls(place, cut)
                rows.append(_restarts(context, kubelet, cut))
                if cut is small:
                    rows.append(_scrapes(context, kubelet, agent))
    return rows


@contextmanager
def _served(place: Workplace, cut: _Units) -> Iterator[tuple[EmbeddedKubelet, RunningAgent]]:
    """A registered agent whose list the kubelet has."""
    machine = place.directory / "machine.yaml"
    gpu = {"model": "Bench GPU", "count": _GPUS, "memory": f"{_MEMORY_MIB}MiB"}
    described = {"machine": {"name": "bench", "driver_version": "580.95.05", "gpus": [gpu]}}
    machine.write_text(yaml.safe_dump(described))
    rule = {"name": _RESOURCE, "chunk": cut.chunk}
    place.configure(gpu_plugin={"simulate": str(machine), "resources": [rule]})
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
    finally:
        kubelet.stop()


def _allocatable(kubelet: EmbeddedKubelet) -> int:
    known = kubelet.resources().get(_RESOURCE)
    return known.allocatable if known else 0


def _calls(place: Workplace, cut: _Units) -> list[Row]:
    uuids = [gpu.uuid for gpu in load_machine(place.directory / "machine.yaml").gpus]
    available = [id_ for uuid in uuids for id_ in units.unit_ids(uuid, cut.per_gpu)]
    prefer = pb.PreferredAllocationRequest(
        container_requests=[
            pb.ContainerPreferredAllocationRequest(
                available_deviceIDs=available, allocation_size=_SIZE
            )
        ]
    )
    socket = socket_path(place.node.kubelet_dir / "device-plugins", _RESOURCE)
    with unix_grpc.channel(socket) as channel:
        plugin = DevicePluginStub(channel)

        def preferred() -> Sequence[str]:
            answer = plugin.GetPreferredAllocation(prefer, timeout=_CALL_S)
            return list(answer.container_responses[0].deviceIDs)

        chosen = preferred()
        if len(chosen) != _SIZE:
            raise RuntimeError(f"asked for {_SIZE} units, {len(chosen)} were preferred")
        allocate = pb.AllocateRequest(
            container_requests=[pb.ContainerAllocateRequest(devices_ids=chosen)]
        )
        empty = _timed(
            lambda: plugin.GetDevicePluginOptions(pb.Empty(), timeout=_CALL_S), cut.calls
        )
        asked = _timed(preferred, cut.calls)
        given = _timed(lambda: plugin.Allocate(allocate, timeout=_CALL_S), cut.calls)
    ours = median(_timed(prefer.SerializeToString, 20), "ms")
    serialising = f"{ours} of it is this end serialising the request"
    rows = []
    for name, spent, note in (
        ("GetPreferredAllocation", asked, serialising),
        ("Allocate", given, ""),
    ):
        what = f"{name} of {_SIZE} among {cut.total:,} units"
        floor = median(empty, "ms")
        rows.append(Row(f"{what}, p50", median(spent, "ms"), "empty call", floor, note=note))
        floor, goal = quantile(empty, 0.99, "ms"), at_most(cut.p99_ms, "ms")
        rows.append(Row(f"{what}, p99", quantile(spent, 0.99, "ms"), "empty call", floor, goal))
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


def _restarts(context: Context, kubelet: EmbeddedKubelet, cut: _Units) -> Row:
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
        f"scrape, {_GPUS} GPUs and {_PODS} containers, p99",
        _p99(spent),
        goal=at_most(10, "ms"),
        note=f"{len(agent.scrape()) / 1024:.0f} KiB; from connecting to the last byte",
    )


def _p99(spent: Sequence[float]) -> Figure:
    return quantile(spent, 0.99, "ms")


def _holders(agent: RunningAgent) -> int:
    return sum(len(device["holders"]) for device in agent.status().get("devices", ()))
