# SPDX-License-Identifier: Apache-2.0
"""Ids to values and back."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.errors import AgentError
from gpu_plugin import units

UUIDS = st.from_regex(r"(GPU|MIG)-[0-9a-f]{8}", fullmatch=True)
NUMBERS = st.lists(st.integers(0, 70_000), min_size=1, unique=True)


@given(st.dictionaries(UUIDS, NUMBERS, max_size=4))
def test_grouping_and_ungrouping_keep_every_unit(wanted: dict[str, list[int]]) -> None:
    ids = units.ungroup(wanted)
    assert units.group(reversed(ids)) == {uuid: set(found) for uuid, found in wanted.items()}


@given(st.dictionaries(UUIDS, NUMBERS, max_size=40), st.randoms(use_true_random=False))
def test_ids_are_sorted_out_by_device(wanted: dict[str, list[int]], rng: random.Random) -> None:
    ids = list(units.ungroup(wanted))
    rng.shuffle(ids)
    found = units.sort_out(ids, wanted)
    assert {uuid: units.numbers(uuid, mine) for uuid, mine in found.items()} == {
        uuid: set(numbers) for uuid, numbers in wanted.items()
    }


@pytest.mark.parametrize(
    "uuids",
    [
        pytest.param(("GPU-1", "GPU-12", "GPU-2"), id="one begins as another"),
        pytest.param(("GPU-1", "MIG-GPU-1/3/0", "MIG-GPU-1/4/0"), id="of unequal length"),
        pytest.param(("GPU-1",), id="one"),
        pytest.param((), id="none"),
    ],
)
def test_any_names_can_be_told_apart(uuids: tuple[str, ...]) -> None:
    ids = [units.unit_id(uuid, number) for number in range(3) for uuid in uuids]
    found = units.sort_out([*ids, "x", "", "GPU-9::1", "another-plugin::7"], uuids)
    for uuid in uuids:
        assert units.numbers(uuid, found[uuid]) == {0, 1, 2}


def test_numbers_of_a_device_are_checked() -> None:
    with pytest.raises(AgentError, match="'GPU-1::x' is not the id of a unit"):
        units.numbers("GPU-1", ["GPU-2::x", "GPU-1::x"])


@given(NUMBERS)
def test_ranges_say_the_same(numbers: list[int]) -> None:
    assert units.from_ranges(units.to_ranges(sorted(numbers))) == sorted(numbers)


def test_a_whole_device_is_one_range() -> None:
    assert units.to_ranges(range(60_000)) == "0-59999"
    assert units.to_ranges([0, 1, 2, 7]) == "0-2,7"
    assert units.from_ranges("") == []


def test_ids_are_as_dcgm_exporter_knows_them() -> None:
    assert list(units.unit_ids("GPU-1", 2)) == ["GPU-1::0", "GPU-1::1"]


@pytest.mark.parametrize(
    "text", ["GPU-1", "GPU-1::", "::1", "GPU-1::x", "GPU-1::-1", "GPU-1::٣", ""]
)
def test_another_form_is_an_error_that_names_it(text: str) -> None:
    with pytest.raises(AgentError, match="is not the id of a unit"):
        units.group([text])
    assert units.count([text]) == {}
