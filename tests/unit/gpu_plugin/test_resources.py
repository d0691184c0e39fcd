# SPDX-License-Identifier: Apache-2.0
"""Units of devices, what fits into a message, and what stays when a device goes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents._pb.deviceplugin import v1beta1_pb2 as pb
from gpu_plugin import budget, units
from gpu_plugin.devices import LostGpu
from gpu_plugin.inventory import devices_of
from gpu_plugin.resources import keep_held, plan, size_text, units_of
from gpu_plugin.service import device_list
from tests.fakes.gpus import A100_SLICES, GIB, MIB, gpu, machine, mig_gpu, rule


@pytest.mark.parametrize(
    ("fields", "reserved", "expected"),
    [
        pytest.param({}, 0, 32, id="1 GiB units"),
        pytest.param({}, 269 * MIB, 31, id="what the driver keeps is not sold"),
        pytest.param({"reserved": "2GiB"}, 269 * MIB, 29, id="nor what is reserved"),
        pytest.param({"chunk": "512MiB"}, 0, 64, id="smaller chunks"),
        pytest.param({"overcommit": 1.5}, 0, 48, id="overcommit"),
        pytest.param({"overcommit": 1.1, "reserved": "22GiB"}, 0, 11, id="in decimal, not binary"),
        pytest.param({"chunk": "33GiB"}, 0, 0, id="a chunk larger than the device"),
        pytest.param({"reserved": "40GiB"}, 0, 0, id="all reserved"),
        pytest.param({"exclusive": True}, 269 * MIB, 1, id="the whole device"),
    ],
)
def test_units(fields: dict[str, Any], reserved: int, expected: int) -> None:
    (device,) = devices_of(machine(gpu(0, reserved=reserved)))
    assert units_of(rule(**fields), device) == expected


def test_equal_units_on_mixed_hardware() -> None:
    found = plan([rule()], machine(gpu(0), mig_gpu(1, A100_SLICES)))
    assert [served.units for served in found.resources[0].devices] == [32, 39, 19, 9, 9]
    assert not found.problems


def test_a_chunk_larger_than_a_device_names_it_and_the_rest_goes_on() -> None:
    found = plan([rule(chunk="16GiB")], machine(gpu(0), mig_gpu(1, A100_SLICES)))
    assert [served.units for served in found.resources[0].devices] == [2, 2, 1]
    assert [problem.devices for problem in found.problems] == [
        (f"MIG-00000001-{instance:04d}-0000-0000-000000000000",) for instance in (9, 10)
    ]
    assert "9.5GiB - 0 driver - 0 reserved, x 1, is less than a chunk of 16GiB" in str(
        found.problems[0].text
    )


def test_a_mig_gpu_without_slices_is_named() -> None:
    found = plan([rule()], machine(mig_gpu(0, {}), gpu(1)))
    assert "is in MIG mode and has no slices" in found.problems[0].text
    assert len(found.resources[0].devices) == 1


# -- the message


@given(
    st.lists(st.tuples(st.integers(0, 1200), st.one_of(st.none(), st.integers(0, 300))), max_size=4)
)
def test_the_message_is_as_long_as_protobuf_makes_it(devices: list[tuple[int, int | None]]) -> None:
    wire = tuple(
        (f"GPU-{index:08d}-0000-0000-0000-000000000000", count, False, node)
        for index, (count, node) in enumerate(devices)
    )
    expected = device_list(wire).ByteSize()
    assert budget.message_bytes((uuid, count, node) for uuid, count, _, node in wire) == expected


def test_a_unit_costs_what_was_measured() -> None:
    assert budget.unit_bytes(47) == 62
    assert budget.unit_bytes(47, numa_node=0) == 66
    device = pb.Device(
        ID="x" * 150,
        health="Unhealthy",
        topology=pb.TopologyInfo(nodes=[pb.NUMANode(ID=200)]),
    )
    assert budget.unit_bytes(150, 200) == pb.ListAndWatchResponse(devices=[device]).ByteSize()


def test_more_than_a_message_holds_is_refused_with_the_arithmetic_and_a_chunk_that_fits() -> None:
    machine_of_eight = machine(*(gpu(index, total=80 * GIB) for index in range(8)))
    found = plan([rule(chunk="8MiB")], machine_of_eight)
    (problem,) = found.problems
    assert found.resources[0].devices == ()
    assert "81920 units take" in problem.text
    assert "the kubelet takes 4194304" in problem.text
    assert "chunk: 10MiB is the smallest that fits" in problem.text
    fitting = plan([rule(chunk="10MiB")], machine_of_eight)
    assert not fitting.problems
    assert fitting.resources[0].message_bytes <= budget.MESSAGE_LIMIT
    assert plan([rule(chunk="9MiB")], machine_of_eight).problems


def test_topology_is_sent_and_paid_for_only_with_numa_placement() -> None:
    one = machine(gpu(0, numa_node=1))
    packed = plan([rule()], one).resources[0]
    aligned = plan([rule(placement="numa")], one).resources[0]
    assert packed.numa_node(packed.devices[0]) is None
    assert aligned.numa_node(aligned.devices[0]) == 1
    assert aligned.message_bytes == packed.message_bytes + 32 * 6


# -- devices that go


def test_a_lost_gpu_stays_listed_as_unhealthy_and_isolates_only_itself() -> None:
    before = plan([rule()], machine(gpu(0), gpu(1)))
    after = machine(gpu(1), lost=(LostGpu(0, gpu(0).uuid, "fallen off the bus"),))
    kept = keep_held(plan([rule()], after), before, after, {})
    states = [(s.device.gpu_index, s.units, s.unhealthy) for s in kept.resources[0].devices]
    assert states == [(0, 32, "lost: fallen off the bus"), (1, 32, None)]


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        pytest.param(
            {"nodeshare/gpu-memory": {gpu(0).uuid}}, "gone, and still held by pods", id="held"
        ),
        pytest.param(None, "gone, and whether pods hold it is unknown", id="unknown"),
        pytest.param({"nodeshare/other": {gpu(0).uuid}}, None, id="held under another name"),
        pytest.param({}, None, id="free"),
    ],
)
def test_a_device_that_is_gone_stays_while_pods_hold_it(held: Any, expected: str | None) -> None:
    before = plan([rule()], machine(gpu(0), gpu(1)))
    after = machine(gpu(1))
    kept = keep_held(plan([rule()], after), before, after, held).resources[0]
    found = {s.device.uuid: s.unhealthy for s in kept.devices}
    assert found.get(gpu(0).uuid) == expected
    assert len(kept.devices) == (1 if expected is None else 2)


def test_a_device_that_comes_back_is_healthy_again() -> None:
    both = machine(gpu(0), gpu(1))
    lost = machine(gpu(1), lost=(LostGpu(0, gpu(0).uuid, "reset"),))
    first = plan([rule()], both)
    second = keep_held(plan([rule()], lost), first, lost, {})
    assert keep_held(plan([rule()], both), second, both, {}) == first


def test_a_removed_slice_goes_when_its_last_pod_does() -> None:
    full, cut = machine(mig_gpu(0, A100_SLICES)), machine(mig_gpu(0, {2: A100_SLICES[2]}))
    first = plan([rule()], full)
    slice_uuid = devices_of(full)[3].uuid
    second = keep_held(plan([rule()], cut), first, cut, {"nodeshare/gpu-memory": {slice_uuid}})
    assert [s.unhealthy is None for s in second.resources[0].devices] == [True, False]
    third = keep_held(plan([rule()], cut), second, cut, {"nodeshare/gpu-memory": set()})
    assert [s.device.gpu_instance for s in third.resources[0].devices] == [2]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0"), (512 * MIB, "512MiB"), (GIB, "1GiB"), (9728 * MIB, "9.5GiB"), (2 << 40, "2TiB")],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert size_text(size) == text


def test_the_ids_of_a_plan_are_the_units_of_its_devices() -> None:
    (served,) = plan([rule()], machine(gpu(0))).resources[0].devices
    listed = device_list(((served.device.uuid, served.units, True, None),))
    assert units.group(device.ID for device in listed.devices) == {
        served.device.uuid: set(range(32))
    }
    assert {device.health for device in listed.devices} == {"Healthy"}
