# SPDX-License-Identifier: Apache-2.0
"""Pods as a person writes them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.errors import ConfigError
from gpu_plugin.pod_request import MOST_PODS, parse

A, B, C = "nodeshare/gpu-memory", "nodeshare/slice", "other.org/slice"


@pytest.mark.parametrize(
    ("word", "resources", "asks"),
    [
        ("8", [A], {A: 8}),
        ("gpu-memory=20", [A, B], {A: 20}),
        ("nodeshare/slice=1", [A, B, C], {B: 1}),
        (" gpu-memory = 2 , nodeshare/slice = 1 ", [A, B], {A: 2, B: 1}),
        ("other.org/slice=1,gpu-memory=2", [A, B, C], {C: 1, A: 2}),
    ],
)
def test_one_pod(word: str, resources: list[str], asks: dict[str, int]) -> None:
    (pod,) = parse([word], resources)
    assert (pod.name, dict(pod.asks)) == ("pod-1", asks)
    assert list(pod.asks) == list(asks), "in the order in which it is written"


def test_repeats_and_order() -> None:
    pods = parse(["4*3", "gpu-memory=1*2"], [A])
    assert [(pod.name, pod.asks[A]) for pod in pods] == [
        ("pod-1", 4),
        ("pod-2", 4),
        ("pod-3", 4),
        ("pod-4", 1),
        ("pod-5", 1),
    ]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (
            "8",
            "names no resource, and there are 3; write RESOURCE=SIZE with one of nodeshare/gpu-m",
        ),
        ("slice=1", "'slice' may be nodeshare/slice or other.org/slice.*full name"),
        ("memory=1", "no resource 'memory'; it has nodeshare/gpu-memory"),
        ("=1", "no resource ''"),
        ("gpu-memory=", "'' is not a number of units"),
        ("gpu-memory=0", "'0' is not a number of units"),
        ("gpu-memory=-1", "'-1' is not a number"),
        ("gpu-memory=8GiB", "'8GiB' is not a number of units; write SIZE"),
        ("gpu-memory=1.5", "'1.5' is not a number"),
        ("gpu-memory=4*0", "repeated 0 times"),
        ("gpu-memory=4*x", r"'4\*x' is not a number"),
        ("gpu-memory=1,gpu-memory=2", "asked for twice; write the sum"),
        ("gpu-memory=1,", "names no resource"),
        ("gpu-memory=1*99999", f"more than {MOST_PODS} pods"),
    ],
)
def test_what_makes_no_sense_is_said_with_the_remedy(word: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        parse([word], [A, B, C])
    assert repr(word) in str(caught.value)


@settings(deadline=None)
@given(st.text(max_size=20))
def test_any_text_is_pods_or_an_error(word: str) -> None:
    try:
        pods = parse([word], [A])
    except ConfigError:
        return
    assert pods
    assert all(pod.asks[A] > 0 for pod in pods)
