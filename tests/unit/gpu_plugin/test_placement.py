# SPDX-License-Identifier: Apache-2.0
"""Which units a container gets, and the words of a refusal."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_plugin import capacity, units
from gpu_plugin.placement import Refused, check, choose
from gpu_plugin.resources import Resource, plan
from tests.fakes.gpus import gpu, machine, rule

A, B, C, D = (gpu(index).uuid for index in range(4))


def resource(devices: int = 3, **fields: Any) -> Resource:
    nodes = [0, 0, 1, 1]
    gpus = [gpu(index, numa_node=nodes[index]) for index in range(devices)]
    return plan([rule(**fields)], machine(*gpus)).resources[0]


def free(**blocks: int) -> list[str]:
    """Free units: `a=5` leaves units 27 to 31 of the first GPU."""
    uuids = {"a": A, "b": B, "c": C, "d": D}
    return [
        units.unit_id(uuids[name], 31 - number)
        for name, count in blocks.items()
        for number in range(count)
    ]


def counts(ids: tuple[str, ...]) -> dict[str, int]:
    return dict(Counter(id_.partition("::")[0] for id_ in ids))


@pytest.mark.parametrize(
    ("placement", "size", "expected"),
    [
        pytest.param("pack", 5, B, id="pack takes the smallest block that fits"),
        pytest.param("pack", 9, A, id="pack keeps the emptiest device whole"),
        pytest.param("spread", 5, C, id="spread takes the emptiest"),
        pytest.param("numa", 5, B, id="numa packs"),
    ],
)
def test_one_device(placement: str, size: int, expected: str) -> None:
    chosen = choose(resource(placement=placement), free(a=10, b=6, c=32), [], size)
    assert counts(chosen) == {expected: size}


def test_equal_blocks_are_taken_in_the_order_of_the_machine() -> None:
    for policy in ("pack", "spread"):
        assert counts(choose(resource(placement=policy), free(c=8, b=8), [], 3)) == {B: 3}


def test_the_lowest_numbers_in_order() -> None:
    available = [units.unit_id(A, number) for number in (9, 30, 2, 11)]
    assert choose(resource(), available, [], 3) == (f"{A}::2", f"{A}::9", f"{A}::11")


def test_prescribed_units_decide_the_device() -> None:
    must = [units.unit_id(C, 7)]
    chosen = choose(resource(), [*free(a=4, c=10), *must], must, 4)
    assert counts(chosen) == {C: 4}
    assert must[0] in chosen


@pytest.mark.parametrize(
    ("fields", "available", "must", "size", "reason", "text"),
    [
        pytest.param(
            {},
            free(a=15, b=12),
            [],
            20,
            "no_single_device",
            f"asked 20 of nodeshare/gpu-memory, largest free block 15 on {A} "
            "(27 free on 2 devices, and a request may not span devices)",
            id="fragmented",
        ),
        pytest.param(
            {},
            free(a=3),
            [],
            4,
            "not_enough",
            "asked 4 of nodeshare/gpu-memory, 3 are free",
            id="full",
        ),
        pytest.param(
            {"split": True},
            free(a=3, b=4),
            [],
            8,
            "not_enough",
            "asked 8 of nodeshare/gpu-memory, 7 are free",
            id="full although it may span",
        ),
        pytest.param(
            {},
            free(a=2, b=20),
            free(a=1),
            5,
            "no_single_device",
            f"asked 5 of nodeshare/gpu-memory, of which 1 are prescribed on {A}; "
            "1 more are free there, and a request may not span devices",
            id="no room beside what is prescribed",
        ),
        pytest.param(
            {},
            free(a=2, b=2),
            free(a=1, b=1),
            3,
            "several_devices",
            f"asked 3 of nodeshare/gpu-memory, 2 are prescribed on 2 devices ({A}, {B}), "
            "and a request may not span devices",
            id="prescribed on two devices",
        ),
        pytest.param(
            {},
            free(a=5),
            free(a=3),
            2,
            "bad_request",
            "asked 2 of nodeshare/gpu-memory, 3 are prescribed",
            id="more prescribed than asked",
        ),
        pytest.param(
            {},
            free(a=5),
            [f"{D}::1"],
            2,
            "unknown_unit",
            f"{D}::1 is not a unit of nodeshare/gpu-memory any more",
            id="prescribed on a device that is gone",
        ),
    ],
)
def test_refusals(
    fields: Any, available: list[str], must: list[str], size: int, reason: str, text: str
) -> None:
    with pytest.raises(Refused) as caught:
        choose(resource(**fields), available, must, size)
    assert (caught.value.reason, str(caught.value)) == (reason, text)


def test_split_takes_whole_devices_first_and_as_few_as_possible() -> None:
    chosen = choose(resource(4, split=True), free(a=10, b=32, c=6, d=32), [], 70)
    assert counts(chosen) == {B: 32, C: 6, D: 32}


def test_split_takes_whole_devices_before_larger_blocks_of_others() -> None:
    """A part of a large device is left to who needs no more than that."""
    gpus = [gpu(0, total=80 << 30), gpu(1), gpu(2)]
    mixed = plan([rule(split=True)], machine(*gpus)).resources[0]
    available = [units.unit_id(A, number) for number in range(60)]
    available += free(b=32, c=31)
    assert counts(choose(mixed, available, [], 70)) == {A: 38, B: 32}
    assert counts(choose(mixed, available, [], 60)) == {A: 60}
    # What is left over goes where it fits best.
    assert counts(choose(mixed, available, [], 63)) == {B: 32, C: 31}


def test_split_still_prefers_one_device() -> None:
    assert counts(choose(resource(split=True), free(a=10, b=32), [], 10)) == {A: 10}


def test_split_with_numa_stays_on_one_node() -> None:
    spread_over = free(a=20, b=20, c=32, d=9)
    assert counts(choose(resource(4, split=True, placement="numa"), spread_over, [], 36)) == {
        A: 20,
        B: 16,
    }
    assert counts(choose(resource(4, split=True), spread_over, [], 36)) == {C: 32, D: 4}


def test_units_that_are_not_offered_any_more_are_not_chosen() -> None:
    offered = resource(1)
    with pytest.raises(Refused, match="asked 2 of nodeshare/gpu-memory, 1 are free"):
        choose(offered, [f"{A}::0", f"{A}::32", f"{B}::0"], [], 2)


def test_a_device_that_is_sick_is_not_chosen() -> None:
    """The kubelet may not have heard of it yet."""
    offered = resource(2)
    sick = replace(offered.devices[0], unhealthy="XID 79")
    with_sick = replace(offered, devices=(sick, offered.devices[1]))
    assert counts(choose(with_sick, free(a=5, b=20), [], 5)) == {B: 5}
    with pytest.raises(Refused, match="asked 25 of nodeshare/gpu-memory, 20 are free"):
        choose(with_sick, free(a=32, b=20), [], 25)


def test_ids_that_are_not_ours_count_for_nothing() -> None:
    foreign = [f"{D}::{number}" for number in range(40)]
    available = [*free(a=3, b=8), *foreign, *free(a=3)]
    assert counts(choose(resource(), available, [], 4)) == {B: 4}
    with pytest.raises(Refused, match="asked 9 of nodeshare/gpu-memory, largest free block 8 on"):
        choose(resource(), available, [], 9)


# -- size classes


def blocks(**fields: Any) -> tuple[Resource, ...]:
    made = rule("nodeshare/gpu", blocks={"8g": "8GiB", "12g": "12GiB"}, **fields)
    return plan([made], machine(gpu(0), gpu(1))).resources


def offer(resource: Resource, used: capacity.InUse) -> tuple[Resource, list[str]]:
    """As offered, with every id that is not in use."""
    offered = capacity.offered(resource, used)
    ids = [
        units.unit_id(served.device.uuid, number)
        for served in offered.devices
        for number in range(served.units)
        if number not in capacity.numbers_in_use(used, resource.name, served.device.uuid)
    ]
    return offered, ids


@pytest.mark.parametrize(("placement", "expected"), [("pack", B), ("spread", A), ("numa", B)])
def test_blocks_are_fitted_by_the_memory_beside_them(placement: str, expected: str) -> None:
    """One block of 12 GiB fits on either: 20 GiB are left on the one, 12 on the other."""
    _, twelve = blocks(placement=placement)
    used = {"nodeshare/gpu-12g": {A: {0}}, "nodeshare/gpu-8g": {B: {0}, A: set[int]()}}
    used["nodeshare/gpu-12g"][B] = {1}
    offered, ids = offer(twelve, used)
    assert counts(choose(offered, ids, [], 1)) == {expected: 1}


def test_a_block_that_another_class_has_taken_is_not_chosen() -> None:
    """Although the kubelet has not heard of it."""
    eight, _ = blocks()
    used = {"nodeshare/gpu-12g": {A: {0, 1}}}
    offered, ids = offer(eight, used)
    assert len(ids) == 8
    assert choose(offered, ids, [], 1) == (f"{A}::0",)
    used = {"nodeshare/gpu-12g": {A: {0, 1}}, "nodeshare/gpu-8g": {A: {0}, B: {0, 1, 2, 3}}}
    with pytest.raises(Refused, match="asked 1 of nodeshare/gpu-8g, 0 are free"):
        choose(*offer(eight, used), [], 1)


def test_a_container_takes_one_block_unless_requests_may_span_devices() -> None:
    eight, _ = blocks()
    with pytest.raises(Refused, match="a container takes one block; ask for a larger") as caught:
        choose(*offer(eight, {}), [], 2)
    assert caught.value.reason == "several_blocks"
    with pytest.raises(Refused, match="a container takes one block"):
        check(eight, [f"{A}::0", f"{A}::1"])
    spanning, _ = blocks(split=True)
    assert counts(choose(*offer(spanning, {}), [], 5)) == {A: 4, B: 1}


@given(
    blocks=st.lists(st.integers(0, 32), min_size=4, max_size=4),
    taken=st.integers(0, 20),
    size=st.integers(1, 64),
    policy=st.sampled_from(["pack", "spread", "numa"]),
    split=st.booleans(),
    seed=st.randoms(use_true_random=False),
)
def test_exactly_what_was_asked_or_an_error(
    blocks: list[int], taken: int, size: int, policy: str, split: bool, seed: random.Random
) -> None:
    offered = resource(4, placement=policy, split=split)
    available = free(**dict(zip("abcd", blocks, strict=True)))
    seed.shuffle(available)
    must = available[: min(taken, size)] if seed.random() < 0.5 else []
    try:
        chosen = choose(offered, available, must, size)
    except Refused:
        # Only when it cannot be done: not enough, or not on one device.
        needed_on = {id_.partition("::")[0] for id_ in must}
        fits = [uuid for uuid, count in counts(tuple(available)).items() if count >= size]
        assert sum(blocks) < size or (
            not split and (len(needed_on) > 1 or not (needed_on <= set(fits) and fits))
        )
        return
    assert len(chosen) == len(set(chosen)) == size
    assert set(must) <= set(chosen) <= set(available)
    assert split or len(counts(chosen)) == 1
    assert list(chosen) == [
        units.unit_id(uuid, number)
        for uuid, numbers in sorted(units.group(chosen).items())
        for number in sorted(numbers)
    ]
    seed.shuffle(available)
    assert choose(offered, available, list(reversed(must)), size) == chosen
    assert sum(len(numbers) for numbers in check(offered, chosen).values()) == size


# -- Allocate checks again


def test_check_groups_by_device_and_sorts() -> None:
    found = check(resource(), [f"{B}::9", f"{B}::1"])
    assert [(served.device.uuid, numbers) for served, numbers in found.items()] == [(B, [1, 9])]


@pytest.mark.parametrize(
    ("fields", "ids", "reason", "text"),
    [
        ({}, [f"{A}::1", f"{B}::1"], "several_devices", "lie on 2 devices"),
        ({}, [f"{A}::32"], "unknown_unit", "is not a unit of nodeshare/gpu-memory any more"),
        ({"exclusive": True}, [f"{A}::1"], "unknown_unit", "is not a unit"),
        ({}, [], "bad_request", "no unit of nodeshare/gpu-memory was asked for"),
    ],
)
def test_check_refuses(fields: Any, ids: list[str], reason: str, text: str) -> None:
    with pytest.raises(Refused, match=text) as caught:
        check(resource(**fields), ids)
    assert caught.value.reason == reason


def test_check_lets_a_split_pass() -> None:
    assert len(check(resource(split=True), [f"{A}::1", f"{C}::1"])) == 2


def test_check_refuses_a_device_that_is_lost() -> None:
    offered = resource()
    lost = replace(offered.devices[0], unhealthy="lost: fallen off the bus")
    sick = replace(offered, devices=(lost, *offered.devices[1:]))
    with pytest.raises(Refused, match=f"{A} is unhealthy: lost: fallen off the bus"):
        check(sick, [f"{A}::0"])
