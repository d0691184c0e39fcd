# SPDX-License-Identifier: Apache-2.0
"""The status document, its table, and the gauges over it."""

from __future__ import annotations

import json

from prometheus_client import CollectorRegistry, generate_latest

from agents.podresources import PodDevices
from agents.tables import lines
from gpu_plugin import metrics, status
from gpu_plugin.devices import LostGpu
from gpu_plugin.resources import Plan, plan
from gpu_plugin.status import Holder, NodeStatus, Usage
from gpu_plugin.tables import tables
from tests.fakes.gpus import A100_SLICES, GIB, gpu, machine, mig_gpu, rule

SHARED, DEDICATED = "nodeshare/gpu-memory", "nodeshare/mig-1g.10gb"
RULES = [
    rule(SHARED, select={"mig": "none"}),
    rule(DEDICATED, select={"mig": ["1g.10gb"]}, exclusive=True),
]
MACHINE = machine(gpu(0), gpu(1), mig_gpu(2, A100_SLICES), simulated=True)
SMALL = plan(RULES, MACHINE).resources[1].devices[0].device.uuid
PODS = (
    PodDevices("ada", "hub", {"main": {SHARED: (f"{gpu(0).uuid}::0", f"{gpu(0).uuid}::1")}}),
    PodDevices(
        "grace",
        "hub",
        {"main": {SHARED: (f"{gpu(0).uuid}::9",), DEDICATED: (f"{SMALL}::0",)}, "side": {}},
    ),
    PodDevices("other", "hub", {"main": {"nvidia.com/gpu": ("GPU-x",)}}),
)


def build(pods: tuple[PodDevices, ...] | None = PODS) -> NodeStatus:
    return status.build(
        MACHINE,
        plan(RULES, MACHINE),
        usage={gpu(0).uuid: Usage(3 * GIB, 2)},
        holders=None if pods is None else status.holders_of(pods),
        registration={SHARED: None, DEDICATED: "no kubelet"},
    )


def test_every_device_with_who_holds_it() -> None:
    found = {device.uuid: device for device in build().devices}
    first = found[gpu(0).uuid]
    assert (first.units, first.units_allocated, first.memory_used) == (32, 3, 3 * GIB)
    assert first.holders == (Holder("hub", "ada", "main", 2), Holder("hub", "grace", "main", 1))
    assert found[gpu(1).uuid].units_allocated == 0
    assert found[gpu(1).uuid].memory_used is None
    assert [device.kind for device in build().devices] == ["gpu", "gpu", *["mig"] * 4]
    assert [device.resource for device in build().devices if device.kind == "mig"] == [
        None,
        None,
        DEDICATED,
        DEDICATED,
    ]


def test_resources_with_their_largest_free_block() -> None:
    shared, dedicated = build().resources
    assert (shared.units, shared.units_allocated, shared.largest_free_block) == (64, 3, 32)
    assert (dedicated.units, dedicated.units_allocated, dedicated.largest_free_block) == (2, 1, 1)
    assert (shared.registered, dedicated.registered) == (True, False)
    assert dedicated.problem == "no kubelet"


def test_what_the_kubelet_does_not_tell_is_unknown_not_zero() -> None:
    found = build(None)
    assert not found.holders_known
    assert {device.units_allocated for device in found.devices} == {None}
    assert {device.holders for device in found.devices} == {None}
    assert {resource.largest_free_block for resource in found.resources} == {None}


def test_a_lost_gpu_is_named() -> None:
    lost = machine(gpu(1), lost=(LostGpu(0, gpu(0).uuid, "fallen off the bus"),))
    found = status.build(lost, Plan((), ()), usage={}, holders=None, registration={})
    assert found.problems == ("GPU 0 is lost: fallen off the bus",)


def test_what_clean_up_needs_to_know() -> None:
    assert status.held_devices(PODS) == {SHARED: {gpu(0).uuid}, DEDICATED: {SMALL}}
    assert status.held_sets(PODS) == {
        SHARED: [
            frozenset({f"{gpu(0).uuid}::0", f"{gpu(0).uuid}::1"}),
            frozenset({f"{gpu(0).uuid}::9"}),
        ],
        DEDICATED: [frozenset({f"{SMALL}::0"})],
    }


def test_the_document_survives_json_and_becomes_a_table() -> None:
    document = json.loads(json.dumps(build().document()))
    text = "\n".join(lines(tables(document)))
    assert "SIMULATED" in text
    assert "hub/ada 2, hub/grace 1" in text
    assert [line.split()[:3] for line in text.splitlines()[2:4]] == [
        ["0", "Tesla", "V100-PCIE-32GB"],
        ["1", "Tesla", "V100-PCIE-32GB"],
    ]
    assert tables(status.EMPTY.document()) == ()
    assert tables({}) == ()


def test_gauges_over_the_snapshot() -> None:
    registry = CollectorRegistry()
    counters = metrics.Counters(registry)
    registry.register(metrics.collector(build))
    counters.rejections.labels(SHARED, "no_single_device").inc()

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"nodeshare_gpu_{name}", labels)

    uuid = gpu(0).uuid
    assert value("memory_used_bytes", device=uuid) == 3 * GIB
    assert value("memory_used_bytes", device=gpu(1).uuid) is None
    assert value("memory_size_bytes", device=uuid) == 32 * GIB
    assert value("units", resource=SHARED, device=uuid) == 32
    assert value("units_allocated", resource=SHARED, device=uuid) == 3
    assert value("largest_free_block_units", resource=SHARED) == 32
    assert value("resource_registered", resource=DEDICATED) == 0
    assert value("device_healthy", device=uuid) == 1
    assert value("simulated") == 1
    assert value("admission_rejections_total", resource=SHARED, reason="no_single_device") == 1
    assert value("collector_success", collector="devices") == 1
    assert b"ada" not in generate_latest(registry)
