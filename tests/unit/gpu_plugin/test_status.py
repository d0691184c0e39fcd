# SPDX-License-Identifier: Apache-2.0
"""The status document, its table, and the gauges over it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from agents.podresources import PodDevices
from agents.tables import lines
from gpu_plugin import capacity, holders, metrics, placement, status
from gpu_plugin.config import ResourceRule
from gpu_plugin.devices import LostGpu
from gpu_plugin.holders import Holder
from gpu_plugin.ledger import Ledger, held_by
from gpu_plugin.resources import Plan, plan
from gpu_plugin.status import NodeStatus, Usage
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


def build(
    pods: tuple[PodDevices, ...] | None = PODS, rules: Sequence[ResourceRule] = RULES
) -> NodeStatus:
    in_use = None
    if pods is not None:
        ledger = Ledger()
        names = [resource.name for resource in plan(rules, MACHINE).resources]
        ledger.settle(held_by(pods, names), 0.0, lambda _: set())
        in_use = ledger.in_use
    decided = plan(rules, MACHINE)
    offered = [capacity.offered(resource, in_use) for resource in decided.resources]
    return status.build(
        MACHINE,
        replace(decided, resources=tuple(offered)),
        usage={gpu(0).uuid: Usage(3 * GIB, 2)},
        holders=None if pods is None else holders.holders_of(pods),
        registration={SHARED: None, DEDICATED: "no kubelet"},
        free={resource.name: capacity.free(resource, in_use) for resource in offered},
    )


def test_every_device_with_who_holds_it() -> None:
    found = {device.uuid: device for device in build().devices}
    first = found[gpu(0).uuid]
    assert (first.units, first.units_allocated, first.memory_used) == (32, 3, 3 * GIB)
    assert first.holders == (
        Holder("hub", "ada", "main", SHARED, 2),
        Holder("hub", "grace", "main", SHARED, 1),
    )
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


def test_what_is_withheld_and_reserved_is_not_offered() -> None:
    honest = rule(SHARED, select={"mig": "none"}, reserved="2GiB", honest_capacity={"sizes": [8]})
    found = build(rules=[honest])
    # 30 units a device, 3 of the first are held: of 27 free ones three pods of 8 can use 24.
    offers = [device.offers[0] for device in found.devices[:2]]
    assert [(o.units, o.allocated, o.withheld, o.reserved) for o in offers] == [
        (30, 3, 3, 2),
        (30, 0, 6, 2),
    ]
    (shared,) = found.resources
    assert (shared.units, shared.units_withheld, shared.largest_free_block) == (51, 9, 24)


def test_a_device_of_size_classes_has_an_offer_for_each() -> None:
    classes = rule("nodeshare/gpu", select={"mig": "none"}, blocks={"8g": "8GiB", "20g": "20GiB"})
    ids = (f"{gpu(0).uuid}::0",)
    pods = (PodDevices("ada", "hub", {"main": {"nodeshare/gpu-8g": ids}}),)
    found = build(pods, [classes])
    first = found.devices[0]
    assert first.resource == "nodeshare/gpu-8g, nodeshare/gpu-20g"
    assert [(o.units, o.allocated, o.withheld) for o in first.offers] == [(4, 1, 0), (1, 0, 0)]
    assert first.unit_memory is None
    assert first.holders == (Holder("hub", "ada", "main", "nodeshare/gpu-8g", 1),)
    assert [resource.largest_free_block for resource in found.resources] == [1, 1]
    table = "\n".join(lines(tables(json.loads(json.dumps(found.document())))))
    assert "gpu-8g 4, gpu-20g 1" in table
    assert "hub/ada gpu-8g 1" in table


def test_what_the_kubelet_does_not_tell_is_unknown_not_zero() -> None:
    found = build(None)
    assert not found.holders_known
    assert {device.units_allocated for device in found.devices} == {None}
    assert {device.holders for device in found.devices} == {None}
    assert {resource.largest_free_block for resource in found.resources} == {None}


def test_what_the_driver_demands_is_a_problem() -> None:
    found = status.build(
        machine(gpu(0, demand="a reset of the GPU")),
        Plan((), ()),
        usage={},
        holders=None,
        registration={},
    )
    assert found.problems == (f"GPU 0 ({gpu(0).uuid}): the driver asks for a reset of the GPU",)


def test_a_sick_device_that_no_rule_serves_is_not_called_healthy() -> None:
    decided = plan(RULES[:1], MACHINE)
    found = status.build(
        MACHINE,
        decided,
        usage={},
        holders=None,
        registration={},
        verdict=lambda device: "XID 79" if device.gpu_index == 2 else "of no interest",
    )
    health = {(device.gpu_index, device.health) for device in found.devices}
    assert health == {(0, "healthy"), (1, "healthy"), (2, "XID 79")}, "the plan knows the others"


def test_idle_and_unmonitored_are_notes_below_the_table() -> None:
    idle = status.with_driver(status.EMPTY, idle=True, unmonitored={}, unlisted=())
    assert "no NVIDIA GPU on this node" in "\n".join(lines(tables(idle.document())))
    deaf = status.with_driver(
        status.EMPTY, idle=False, unmonitored={"GPU-1": "not supported"}, unlisted=["0000:3b:00.0"]
    )
    text = "\n".join(lines(tables(deaf.document())))
    assert "XID events are not heard of GPU-1" in text
    assert "0000:3b:00.0 is an NVIDIA GPU that the driver does not list" in text


def test_a_lost_gpu_is_named() -> None:
    lost = machine(gpu(1), lost=(LostGpu(0, gpu(0).uuid, "fallen off the bus"),))
    found = status.build(lost, Plan((), ()), usage={}, holders=None, registration={})
    assert found.problems == (f"GPU 0 ({gpu(0).uuid}) is lost: fallen off the bus",)


def test_what_clean_up_needs_to_know() -> None:
    assert holders.held_sets(PODS) == {
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
    registry.register(metrics.collector(build, tuple))
    counters.rejections.labels(SHARED, "no_single_device").inc()

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"nodeshare_gpu_{name}", labels)

    uuid = gpu(0).uuid
    assert value("memory_used_bytes", device=uuid) == 3 * GIB
    assert value("memory_used_bytes", device=gpu(1).uuid) is None
    assert value("memory_size_bytes", device=uuid) == 32 * GIB
    assert value("units", resource=SHARED, device=uuid) == 32
    assert value("units_allocated", resource=SHARED, device=uuid) == 3
    assert value("unit_bytes", resource=SHARED, device=uuid) == GIB
    small = value("memory_size_bytes", device=SMALL)
    assert value("unit_bytes", resource=DEDICATED, device=SMALL) == small
    assert value("units_withheld", resource=SHARED, device=uuid) == 0
    assert value("units_reserved", resource=SHARED, device=uuid) == 0
    assert value("largest_free_block_units", resource=SHARED) == 32
    assert value("resource_registered", resource=DEDICATED) == 0
    assert value("device_healthy", device=uuid) == 1
    assert value("simulated") == 1
    assert value("admission_rejections_total", resource=SHARED, reason="no_single_device") == 1
    assert value("collector_success", collector="devices") == 1
    assert b"ada" not in generate_latest(registry)
    exposed = generate_latest(registry).decode()
    assert re.search(rf'device_info{{device="{uuid}",.*name="GPU 0",.*}} 1.0', exposed)
    assert re.search(rf'device_info{{device="{SMALL}",.*name="GPU 2 1g.10gb gi\d+",', exposed)


def test_what_may_happen_to_a_resource_counts_from_0() -> None:
    registry = CollectorRegistry()
    counters = metrics.Counters(registry)
    counters.begin(SHARED)
    for name in ("registrations_lost", "allocations", "late_rejections", "large_allocations"):
        found = registry.get_sample_value(f"nodeshare_gpu_{name}_total", {"resource": SHARED})
        assert found == 0, name
    source = "".join(path.read_text() for path in Path(placement.__file__).parent.glob("*.py"))
    given = set(re.findall(r'Refused\(\s*"(\w+)"', source))
    assert given == set(placement.REASONS)
    for reason in given:
        labels = {"resource": SHARED, "reason": reason}
        assert registry.get_sample_value("nodeshare_gpu_admission_rejections_total", labels) == 0
