# SPDX-License-Identifier: Apache-2.0
"""What showing costs: 200 containers on 8 GPUs, to themselves in their files and to Prometheus.

The agent's own code after a scan, in this process, on made-up scans; the files are real, below the
bench's directory. The scrape is over HTTP on loopback, with every family that the agent has. The
peer is the same scrape with prometheus_client's own formatting of the samples.
"""

from __future__ import annotations

import http.client
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from agents import listeners
from agents.agent import Readiness
from agents.endpoints import Heartbeat, metrics_routes
from agents.hostfs import PROC
from agents.logs import get_logger
from agents.metrics import GuardedCollector
from agents.processes import ProcessKey
from agents.published import Published
from gpu_plugin import container_metrics, metrics, resources, status
from gpu_plugin.accounting import (
    Accounting,
    ContainerKey,
    ContainerNames,
    DeviceUse,
    GpuContainer,
    GpuUse,
    Grant,
)
from gpu_plugin.allocation import Share, SharedDevice
from gpu_plugin.config import ResourceRule
from gpu_plugin.container_activity import ActivityClock
from gpu_plugin.container_overview import Overview, overview
from gpu_plugin.container_pages import HEARTBEAT_S, Batch, ContainerPages
from gpu_plugin.devices import ProcessKind
from gpu_plugin.holders import Holder
from gpu_plugin.identity import Allocations
from gpu_plugin.inventory import devices_of
from gpu_plugin.simulated.description import load_machine
from gpu_plugin.simulated.nvml import SimulatedNvml
from gpu_plugin.verdicts import Backend, Limits, Standing, Verdict
from tests.bench.measure import Context, Row, at_most, median, quantile

_CONTAINERS = 200
_GIB = 1 << 30
_RESOURCE = "nodeshare/gpu-memory"
_MACHINE = SimulatedNvml(load_machine("h100x8"), Path("nothing happens on it")).machine()
_DEVICES = {device.uuid: device for device in devices_of(_MACHINE)}


def measure(context: Context) -> Sequence[Row]:
    """CPU milliseconds a scan, and milliseconds a scrape."""
    context.directory.mkdir(parents=True, exist_ok=True)
    allocations = Allocations(context.directory / "gpu")
    allocations.prepare()
    containers = [_container(allocations, number) for number in range(_CONTAINERS)]
    clock = ActivityClock()
    pages = ContainerPages(allocations.containers, PROC, get_logger())
    rows = [_shown(containers, clock, pages, context.pick(50, 5))]
    rows += _scrapes(_overview(containers, clock, 10_000.0), context.pick(200, 10))
    shutil.rmtree(context.directory)
    return rows


def _container(allocations: Allocations, number: int) -> GpuContainer:
    device = list(_DEVICES)[number % len(_DEVICES)]
    share = Share(_RESOURCE, (SharedDevice(device, "H100", None, (number,), _GIB),), True)
    name = allocations.make(share).name
    use = GpuUse(ProcessKey(1, number), device, 500 << 20, ProcessKind.COMPUTE, "python3", 0.0)
    return GpuContainer(
        ContainerKey(f"uid-{number}", f"{number:064x}"),
        f"/kubepods/{number}",
        ContainerNames("jupyterhub", f"jupyter-user-{number}", "notebook"),
        None,
        (Grant(name, _RESOURCE, device, 1, _GIB),),
        (use,),
    )


def _batch(containers: Sequence[GpuContainer], clock: ActivityClock, at: float) -> Batch:
    devices = {uuid: DeviceUse(uuid, 80 * _GIB, _GIB, 79 * _GIB, 0, 0.5) for uuid in _DEVICES}
    accounting = Accounting(at, at, devices, tuple(containers))
    limits = Limits(_GIB, _GIB, _GIB, "the request")
    verdicts = {
        (one.key, grant.device): Verdict(
            one.key,
            grant.device,
            limits,
            500 << 20,
            500 << 20,
            Standing.BELOW,
            Backend.TERMINATE,
            "Above the limit after 10 s processes are ended, the newest first.",
        )
        for one in containers
        for grant in one.grants
    }
    return Batch(accounting, verdicts, clock.look(accounting), _DEVICES, simulated=True)


def _overview(containers: Sequence[GpuContainer], clock: ActivityClock, at: float) -> Overview:
    batch = _batch(containers, clock, at)
    return overview(batch.accounting, batch.verdicts, batch.activity, _DEVICES)


def _shown(
    containers: Sequence[GpuContainer], clock: ActivityClock, pages: ContainerPages, times: int
) -> Row:
    """Of a scan in which nothing changed, and in the note what the others take."""
    at = 100.0

    def scan(found: Sequence[GpuContainer], step_s: float) -> float:
        nonlocal at
        at += step_s
        batch = _batch(found, clock, at)
        before = time.process_time()
        overview(batch.accounting, batch.verdicts, batch.activity, _DEVICES)
        if pages.write(batch):
            raise RuntimeError("files could not be written")
        return (time.process_time() - before) * 1000

    scan(containers, 1.0)
    # So little time passes that none of them is a heartbeat.
    still = [scan(containers, 0.01) for _ in range(times)]
    moved = [
        scan([_with(one, number) for one in containers], 0.01)
        for number in range(1, 1 + times // 5)
    ]
    again = [scan([_with(one, 1) for one in containers], HEARTBEAT_S) for _ in range(3)]
    return Row(
        f"CPU to show a scan to {_CONTAINERS} containers, nothing changed",
        median(still, "ms"),
        note=f"all changed: {median(moved, 'ms')}; a heartbeat, every {HEARTBEAT_S:g} s: "
        f"{median(again, 'ms')}",
    )


def _with(container: GpuContainer, number: int) -> GpuContainer:
    (use,) = container.uses
    return replace(container, uses=(replace(use, used=(500 + number) << 20),))


def _scrapes(found: Overview, times: int) -> list[Row]:
    registry, more = CollectorRegistry(), Published("")
    metrics.Counters(registry)
    shown = _status()
    registry.register(
        metrics.collector(lambda: shown, container_metrics.collecting(lambda: found, more.set))
    )
    routes = metrics_routes(registry, Heartbeat(), Readiness(), more)
    listener = listeners.bind_tcp("127.0.0.1", 0, routes, key="bench")
    with listeners.serving(listener):
        port = int(listener.where.rpartition(":")[2])
        spent = _timed(lambda: _get(port), times)
        size = len(_get(port))
    families = list(text_string_to_metric_families(more.value))
    plain = CollectorRegistry()
    plain.register(GuardedCollector("bench", {"all": lambda: _as_metrics(families)}))
    peer = _timed(lambda: generate_latest(plain), times)
    name = "prometheus_client's formatting, without HTTP"
    what = f"scrape, {len(_DEVICES)} GPUs and {_CONTAINERS} containers that use them"
    return [
        Row(f"{what}, p50", quantile(spent, 0.5, "ms"), name, quantile(peer, 0.5, "ms")),
        Row(
            f"{what}, p99",
            quantile(spent, 0.99, "ms"),
            name,
            quantile(peer, 0.99, "ms"),
            at_most(10, "ms"),
            note=f"{size / 1024:.0f} KiB; from connecting to the last byte",
        ),
    ]


def _as_metrics(families: Sequence[Metric]) -> Sequence[Metric]:
    return families


def _status() -> status.NodeStatus:
    """Of the node, with a holder for each container."""
    holders: dict[tuple[str, str], tuple[Holder, ...]] = {}
    for number in range(_CONTAINERS):
        key = (_RESOURCE, list(_DEVICES)[number % len(_DEVICES)])
        one = Holder("jupyterhub", f"jupyter-user-{number}", "notebook", _RESOURCE, 1)
        holders[key] = (*holders.get(key, ()), one)
    plan = resources.plan([ResourceRule(name=_RESOURCE)], _MACHINE)
    return status.build(
        _MACHINE,
        plan,
        usage={uuid: status.Usage(_GIB, 25) for uuid in _DEVICES},
        holders=holders,
        registration={_RESOURCE: None},
    )


def _get(port: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read()
    finally:
        connection.close()


def _timed(call: Callable[[], object], times: int) -> list[float]:
    for _ in range(3):
        call()
    spent = []
    for _ in range(times):
        before = time.perf_counter()
        call()
        spent.append((time.perf_counter() - before) * 1000)
    return spent
