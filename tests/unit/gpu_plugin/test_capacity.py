# SPDX-License-Identifier: Apache-2.0
"""Which units are not offered now: honest capacity and size classes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_plugin import capacity, honest_capacity, size_classes
from gpu_plugin.resources import Resource, plan
from gpu_plugin.service import device_list, wire_form
from tests.fakes.gpus import GIB, gpu, machine, rule

A, B = gpu(0).uuid, gpu(1).uuid
NAME = "nodeshare/gpu-memory"
EIGHT, TWENTY = "nodeshare/gpu-8g", "nodeshare/gpu-20g"


@pytest.mark.parametrize(
    ("free", "sizes", "expected"),
    [
        pytest.param(150, (200,), 0, id="no size fits"),
        pytest.param(200, (200,), 200, id="one fits exactly"),
        pytest.param(19, (8, 20), 16, id="two of the smaller"),
        pytest.param(28, (8, 20), 28, id="one of each"),
        pytest.param(0, (8,), 0, id="nothing is free"),
        pytest.param(5, (1,), 5, id="every unit can be used"),
    ],
)
def test_usable(free: int, sizes: tuple[int, ...], expected: int) -> None:
    assert honest_capacity.usable(free, sizes) == expected


@given(st.integers(0, 60), st.sets(st.integers(1, 30), min_size=1, max_size=3))
def test_usable_is_the_best_that_requests_add_up_to(free: int, sizes: set[int]) -> None:
    sums = {0}
    for size in sizes:
        sums |= {total + size * n for total, n in itertools.product(sums, range(1, 61))}
    best = max(total for total in sums if total <= free)
    assert honest_capacity.usable(free, tuple(sorted(sizes))) == best


def test_sixty_thousand_free_units_cost_nothing() -> None:
    assert honest_capacity.usable(60_000, (7, 11, 64)) == 60_000
    assert len(honest_capacity.withheld(60_000, set(), (59_999,))) == 1


@given(
    units=st.integers(0, 40),
    used=st.sets(st.integers(0, 45)),
    sizes=st.sets(st.integers(1, 12), min_size=1, max_size=3),
)
def test_what_is_withheld_is_free_and_high(units: int, used: set[int], sizes: set[int]) -> None:
    found = honest_capacity.withheld(units, used, tuple(sorted(sizes)))
    free = set(range(units)) - used
    assert found <= free
    assert all(high > low for high in found for low in free - found)
    left = free - found
    assert honest_capacity.usable(len(left), tuple(sorted(sizes))) == len(left)


def test_a_pod_that_fits_does_not_change_the_list() -> None:
    before = honest_capacity.withheld(19, set(), (8, 20))
    assert honest_capacity.withheld(19, set(range(8)), (8, 20)) == before == {16, 17, 18}


def honest() -> Resource:
    found = plan([rule(honest_capacity={"sizes": [20]})], machine(gpu(0), gpu(1)))
    return found.resources[0]


def test_two_devices_with_too_little_on_each() -> None:
    used = {NAME: {A: frozenset(range(17)), B: frozenset(range(17))}}
    offered = capacity.offered(honest(), used)
    assert [served.withheld for served in offered.devices] == [frozenset(range(17, 32))] * 2
    assert capacity.free(offered, used) == {A: 0, B: 0}


def test_without_knowing_who_holds_what_nothing_is_withheld() -> None:
    offered = capacity.offered(honest(), None)
    assert not any(served.withheld for served in offered.devices)
    assert capacity.free(offered, None) is None


def test_without_the_key_nothing_is_withheld() -> None:
    resource = plan([rule()], machine(gpu(0))).resources[0]
    assert capacity.offered(resource, {NAME: {A: frozenset({3})}}) is resource


def test_units_above_the_offer_are_no_free_ones() -> None:
    """A pod of before a larger chunk may hold numbers that are not offered any more."""
    resource = plan([rule()], machine(gpu(0))).resources[0]
    assert capacity.free(resource, {NAME: {A: frozenset({1, 31, 32, 99})}}) == {A: 30}


def test_the_kubelet_is_told_of_each_withheld_unit() -> None:
    used = {NAME: {A: frozenset(range(10)), B: frozenset(range(12))}}
    offered = capacity.offered(honest(), used)
    assert [len(served.withheld) for served in offered.devices] == [2, 0]
    listed = device_list(wire_form(offered))
    assert {one.ID for one in listed.devices if one.health == "Unhealthy"} == {
        f"{A}::30",
        f"{A}::31",
    }
    assert len(listed.devices) == 64
    assert wire_form(offered) != wire_form(honest())
    sick = replace(offered, devices=tuple(replace(s, unhealthy="x") for s in offered.devices))
    assert {one.health for one in device_list(wire_form(sick)).devices} == {"Unhealthy"}


# -- size classes


def classes(**fields: Any) -> tuple[Resource, ...]:
    made = rule("nodeshare/gpu", blocks={"8g": "8GiB", "20g": "20GiB"}, **fields)
    return plan([made], machine(gpu(0), gpu(1))).resources


def counts(used: capacity.InUse | None) -> list[list[int]]:
    """Blocks that are shown healthy, by class and device."""
    return [
        [served.units - len(served.withheld) for served in capacity.offered(one, used).devices]
        for one in classes()
    ]


def test_each_class_is_a_resource_of_its_own() -> None:
    eight, twenty = classes()
    assert (eight.name, twenty.name) == (EIGHT, TWENTY)
    assert (eight.chunk, twenty.chunk) == (8 * GIB, 20 * GIB)
    assert [served.units for served in eight.devices] == [4, 4]
    assert [served.units for served in twenty.devices] == [1, 1]
    assert {served.pool for served in (*eight.devices, *twenty.devices)} == {32 * GIB}


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        pytest.param({}, [[4, 4], [1, 1]], id="nothing held"),
        pytest.param({EIGHT: {A: {0}}}, [[4, 4], [1, 1]], id="24 GiB are left"),
        pytest.param({EIGHT: {A: {0, 1}}}, [[4, 4], [0, 1]], id="16 GiB are left"),
        pytest.param({TWENTY: {B: {0}}}, [[4, 1], [1, 1]], id="the other way round"),
        pytest.param({TWENTY: {B: {0}}, EIGHT: {B: {3}}}, [[4, 1], [1, 1]], id="a high number"),
        pytest.param(None, [[0, 0], [0, 0]], id="who holds what is unknown"),
    ],
)
def test_held_blocks_and_what_still_fits_are_shown(
    used: dict[str, dict[str, set[int]]] | None, expected: list[list[int]]
) -> None:
    assert counts(used) == expected


def test_a_held_block_is_never_withheld() -> None:
    used = {TWENTY: {A: {0}}, EIGHT: {A: {3}}}
    (eight, _) = (capacity.offered(one, used) for one in classes())
    assert eight.devices[0].withheld == {0, 1, 2}
    assert eight.devices[0].left == 4 * GIB


def test_overcommit_and_reserve_make_the_pool() -> None:
    (eight, _) = classes(reserved="2GiB", overcommit=2)
    assert {served.pool for served in eight.devices} == {60 * GIB}
    assert [(served.units, served.reserved) for served in eight.devices] == [(7, 1), (7, 1)]


def test_more_than_there_is_offers_nothing() -> None:
    assert size_classes.left(10, [(3, 4)]) == -2
    assert size_classes.withheld(3, {0}, -1) == {1, 2}
