# SPDX-License-Identifier: Apache-2.0
"""Which device serves which resource."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_plugin.config import ResourceRule
from gpu_plugin.inventory import devices_of
from gpu_plugin.selection import Assignment, assign
from tests.fakes.gpus import A100_SLICES, gpu, machine, mig_gpu, rule

DEVICES = devices_of(machine(gpu(0), gpu(1), mig_gpu(2, A100_SLICES)))
BY_NAME = dict(zip(["gpu0", "gpu1", "3g", "2g", "1g-a", "1g-b"], DEVICES, strict=True))


def served(assignment: Assignment) -> dict[str, list[str]]:
    names = {device.uuid: name for name, device in BY_NAME.items()}
    return {
        resource.partition("/")[2]: [names[device.uuid] for device in devices]
        for resource, devices in assignment.devices.items()
    }


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        pytest.param({}, list(BY_NAME), id="nothing written: no filter"),
        pytest.param({"mig": "none"}, ["gpu0", "gpu1"], id="whole GPUs"),
        pytest.param({"mig": "any"}, ["3g", "2g", "1g-a", "1g-b"], id="all slices"),
        pytest.param({"mig": ["1g.10gb"]}, ["1g-a", "1g-b"], id="one profile"),
        pytest.param({"mig": ["1g.10gb", "3g.40gb"]}, ["3g", "1g-a", "1g-b"], id="profiles"),
        pytest.param({"models": ["*v100*"]}, ["gpu0", "gpu1"], id="a glob, any case"),
        pytest.param({"models": ["V100"]}, [], id="a glob is not a substring"),
        pytest.param({"indices": [1, 2], "mig": "none"}, ["gpu1"], id="index"),
        pytest.param({"mig_ids": [3, 9]}, ["2g", "1g-a"], id="GPU instances"),
        pytest.param({"uuids": [BY_NAME["1g-b"].uuid]}, ["1g-b"], id="a slice by UUID"),
        pytest.param(
            {"uuids": [BY_NAME["3g"].gpu_uuid]}, ["3g", "2g", "1g-a", "1g-b"], id="all of a GPU"
        ),
        pytest.param({"mig": ["1g.10gb"], "count": 1}, ["1g-a"], id="the first so many"),
    ],
)
def test_selectors(select: dict[str, Any], expected: list[str]) -> None:
    found = assign([rule("nodeshare/a", select=select)], DEVICES)
    assert served(found) == {"a": expected}


def test_a_device_that_two_rules_match_is_served_by_neither_and_named() -> None:
    rules = [
        rule("nodeshare/all", select={"mig": "any"}),
        rule("nodeshare/small", select={"mig": ["1g.10gb"]}),
        rule("nodeshare/whole", select={"mig": "none"}),
    ]
    found = assign(rules, DEVICES)
    assert served(found) == {"all": ["3g", "2g"], "small": [], "whole": ["gpu0", "gpu1"]}
    (problem,) = found.problems
    assert problem.devices == (BY_NAME["1g-a"].uuid, BY_NAME["1g-b"].uuid)
    assert "nodeshare/all and nodeshare/small both match" in problem.text
    assert BY_NAME["1g-a"].uuid in problem.text


def test_dedicated_and_shared_slices_of_one_profile() -> None:
    rules = [
        rule("nodeshare/shared", select={"mig": ["1g.10gb"]}),
        rule("nodeshare/own", select={"mig": ["1g.10gb"], "count": 1}, exclusive=True),
    ]
    found = assign(rules, DEVICES)
    assert served(found) == {"shared": ["1g-b"], "own": ["1g-a"]}
    assert not found.problems


def test_a_count_keeps_what_it_had_and_takes_nothing_that_served_another() -> None:
    rules = [
        rule("nodeshare/own", select={"mig": "any", "count": 2}, exclusive=True),
        rule("nodeshare/shared", select={"mig": "any"}),
    ]
    earlier = {BY_NAME["2g"].uuid: "nodeshare/own", BY_NAME["3g"].uuid: "nodeshare/shared"}
    assert served(assign(rules, DEVICES, earlier)) == {
        "own": ["2g", "1g-a"],
        "shared": ["3g", "1g-b"],
    }


@pytest.mark.parametrize(
    ("select", "why"),
    [
        ({"models": ["*H100*"]}, "nodeshare/a matches no device of this machine"),
        ({"mig": ["1g.10gb"], "count": 3}, "nodeshare/a asks for 3 devices, 2 are there"),
    ],
)
def test_a_rule_that_gets_nothing_or_too_little_is_named(select: Any, why: str) -> None:
    found = assign([rule("nodeshare/a", select=select)], DEVICES)
    assert [problem.text for problem in found.problems] == [why]


def test_a_rule_whose_devices_a_count_took_is_named() -> None:
    rules = [
        rule("nodeshare/a", select={"mig": ["3g.40gb"], "count": 1}),
        rule("nodeshare/b", select={"mig": ["3g.40gb"]}),
    ]
    (problem,) = assign(rules, DEVICES).problems
    assert problem.resource == "nodeshare/b"
    assert "rules with a count took all" in problem.text


SELECTS = st.fixed_dictionaries(
    {},
    optional={
        "mig": st.sampled_from(["none", "any", ["1g.10gb"], ["3g.40gb", "2g.20gb"]]),
        "indices": st.lists(st.integers(0, 3), min_size=1, max_size=3),
        "count": st.integers(1, 4),
    },
)


@given(
    st.lists(SELECTS, max_size=5),
    st.dictionaries(
        st.sampled_from([device.uuid for device in DEVICES]),
        st.sampled_from([f"nodeshare/r{number}" for number in range(5)]),
    ),
)
def test_no_device_is_ever_sold_twice(
    selects: list[dict[str, Any]], earlier: Mapping[str, str]
) -> None:
    rules: list[ResourceRule] = [
        rule(f"nodeshare/r{number}", select=select) for number, select in enumerate(selects)
    ]
    found = assign(rules, DEVICES, earlier)
    sold = [device.uuid for devices in found.devices.values() for device in devices]
    assert len(sold) == len(set(sold))
    assert list(found.devices) == [one.name for one in rules]
    for one in rules:
        assert one.select.count is None or len(found.devices[one.name]) <= one.select.count
