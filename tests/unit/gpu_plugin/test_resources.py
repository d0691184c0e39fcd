# SPDX-License-Identifier: Apache-2.0
"""Units of devices, what fits into a message, and what stays when a device goes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents._pb.deviceplugin import v1beta1_pb2 as pb
from gpu_plugin import budget, units
from gpu_plugin.inventory import devices_of
from gpu_plugin.resources import plan, size_text, units_of
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


def test_resources_whose_variables_would_be_the_same_are_named() -> None:
    alike = [rule(name="a.org/gpu-big", select={"indices": [0]}), rule(name="b.org/gpu_big")]
    problems = [problem.text for problem in plan(alike, machine(gpu(0))).problems]
    (told,) = [text for text in problems if "the same variables" in text]
    assert "a.org/gpu-big and b.org/gpu_big have the same variables" in told
    assert "NODESHARE_RESOURCE_GPU_BIG_…" in told
    other = [rule(name="a.org/gpu-big", select={"indices": [0]}), rule(name="b.org/gpu-small")]
    told_of_others = [problem.text for problem in plan(other, machine(gpu(0))).problems]
    assert not any("the same variables" in text for text in told_of_others)


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
    assert not any("is not offered" in problem.text for problem in fitting.problems)
    assert fitting.resources[0].message_bytes <= budget.MESSAGE_LIMIT
    (refused,) = plan([rule(chunk="9MiB")], machine_of_eight).problems
    assert "is not offered" in refused.text


def test_many_units_in_one_container_are_served_and_said() -> None:
    found = plan([rule(chunk="64MiB", reserved="200MiB")], machine(gpu(0), gpu(1)))
    (problem,) = found.problems
    assert [served.units for served in found.resources[0].devices] == [508, 508]
    assert str(problem.text).startswith(
        "nodeshare/gpu-memory: one container can hold 508 units, and more than 500 make everything "
        "about its pod large: 42562 bytes in its status"
    )
    assert "chunk: 66MiB gives at most 500" in problem.text
    assert not plan([rule(chunk="66MiB", reserved="200MiB")], machine(gpu(0))).problems
    assert plan([rule(chunk="65MiB", reserved="200MiB")], machine(gpu(0))).problems
    # Two devices together, where a request may span them.
    split = plan([rule(chunk="128MiB", split=True)], machine(gpu(0), gpu(1)))
    assert "one container can hold 512 units" in split.problems[0].text


def test_a_chunk_that_fits_is_written_as_it_is_to_be_configured() -> None:
    """Not rounded to 1.46GiB, which would be too small."""
    one = machine(gpu(0, total=750_000 * MIB))
    (problem,) = plan([rule(chunk="1GiB")], one).problems
    assert "chunk: 1498MiB gives at most 500" in problem.text
    assert not plan([rule(chunk="1498MiB")], one).problems


def test_podresources_too_large_for_others_is_said() -> None:
    found = plan([rule(chunk="10MiB")], machine(*(gpu(i, total=75_000 * MIB) for i in range(8))))
    assert "podresources answers 4311120 bytes when all units are held" in found.problems[1].text


def test_a_name_that_the_api_server_refuses_costs_its_own_devices_alone() -> None:
    named = [
        rule("nodeshare/good", select={"indices": [0]}),
        rule("nodeshare/bad", select={"indices": [1]}).model_copy(update={"name": "Bad/name"}),
    ]
    found = plan(named, machine(gpu(0), gpu(1)))
    assert [len(resource.devices) for resource in found.resources] == [1, 0]
    (problem,) = found.problems
    assert "Bad/name is not offered: 'Bad/name': 'Bad' is not a DNS domain" in problem.text
    assert gpu(1).uuid in problem.text
    assert problem.devices == (gpu(1).uuid,)


def test_reserved_units_are_counted_beside_the_others() -> None:
    found = plan([rule(reserved="2GiB")], machine(gpu(0, reserved=269 * MIB)))
    (served,) = found.resources[0].devices
    assert (served.units, served.reserved) == (29, 2)


def test_a_class_needs_one_device_with_room_and_a_device_one_class() -> None:
    classes = rule("nodeshare/gpu", blocks={"8g": "8GiB", "20g": "20GiB", "64g": "64GiB"})
    small = {1: ("1g.5gb", 4864 * MIB), 2: ("1g.10gb", 9728 * MIB)}
    found = plan([classes], machine(gpu(0), mig_gpu(1, small)))
    assert [len(resource.devices) for resource in found.resources] == [2, 1, 0]
    texts = [problem.text for problem in found.problems]
    assert len(texts) == 4
    assert "nodeshare/gpu-8g: MIG-00000001-0001" in texts[0]
    assert all(text.startswith("nodeshare/gpu-64g: ") for text in texts[1:])


def test_topology_is_sent_and_paid_for_only_with_numa_placement() -> None:
    one = machine(gpu(0, numa_node=1))
    packed = plan([rule()], one).resources[0]
    aligned = plan([rule(placement="numa")], one).resources[0]
    assert packed.numa_node(packed.devices[0]) is None
    assert aligned.numa_node(aligned.devices[0]) == 1
    assert aligned.message_bytes == packed.message_bytes + 32 * 6


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
