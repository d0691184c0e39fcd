# SPDX-License-Identifier: Apache-2.0
"""What is said of an offer: free, full, or not known."""

from __future__ import annotations

import pytest
from nodeshare_hub.availability import Place, Reading, State, Verdict, judge
from nodeshare_hub.choice import Offer, offers
from nodeshare_hub.settings import Settings

MEMORY, SLICE = "nodeshare/gpu-memory", "nodeshare/mig-1g.10gb"
V100 = {"gpu": "v100"}
NOW = 1_000_000.0


def offer(settings: Settings, key: str) -> Offer:
    return next(one for one in offers(settings.instances, ["gpu"]) if one.key == key)


def verdict(
    settings: Settings, key: str, *places: Place, age: float = 5, resource: str = MEMORY
) -> Verdict:
    reading = Reading(NOW - age, {resource: places} if places else {})
    found = judge(offer(settings, key), reading, now=NOW, stale_s=120)
    assert found is not None
    return found


def test_the_largest_block_counts_and_not_the_sum(settings: Settings) -> None:
    places = [Place("a", 7, V100), Place("b", 7, V100), Place("c", 3, V100)]
    assert verdict(settings, "gpu/4", *places).state is State.FREE
    found = verdict(settings, "gpu/8", *places)
    assert found.state is State.FULL
    assert "7 GiB at most are free" in found.text


def test_nodes_where_it_fits_come_tightest_first(settings: Settings) -> None:
    places = [Place("big", 31, V100), Place("small", 5, V100), Place("full", 3, V100)]
    found = verdict(settings, "gpu/4", *places)
    assert found.nodes == ("small", "big")
    assert found.text == "free now on 2 nodes"
    many = [Place(f"n{number:03}", 9, V100) for number in range(50)]
    assert len(verdict(settings, "gpu/4", *many).nodes) == 10


def test_nodes_that_the_instance_does_not_go_to_do_not_count(settings: Settings) -> None:
    found = verdict(settings, "gpu/4", Place("a", 31, {"gpu": "a100"}), Place("b", 2, V100))
    assert found.state is State.FULL
    assert verdict(settings, "gpu/4", Place("a", 31, {})).state is State.UNKNOWN
    assert verdict(settings, "gpu/4", Place(None, 31)).state is State.FREE, "labels not known"


def test_a_cluster_without_names_of_nodes(settings: Settings) -> None:
    found = verdict(settings, "slice", Place(None, 1), resource=SLICE)
    assert (found.state, found.text, found.nodes) == (State.FREE, "free now", ())
    full = verdict(settings, "slice", Place(None, 0), resource=SLICE)
    assert "all of it is taken" in full.text


@pytest.mark.parametrize(
    ("age", "words"),
    [(0, "free now"), (60, "(60 seconds ago)"), (119, "(2 minutes ago)")],
)
def test_how_old_it_is_is_said(settings: Settings, age: float, words: str) -> None:
    found = verdict(settings, "gpu/4", Place("a", 9, V100), age=age)
    assert found.state is State.FREE
    assert found.text.endswith(words)


def test_what_is_stale_or_absent_is_not_known(settings: Settings) -> None:
    stale = verdict(settings, "gpu/4", Place("a", 9, V100), age=7200)
    assert (stale.state, stale.nodes) == (State.UNKNOWN, ())
    assert "2 hours ago" in stale.text
    absent = verdict(settings, "gpu/4")
    assert absent.state is State.UNKNOWN
    nothing = judge(offer(settings, "gpu/4"), None, now=NOW, stale_s=120)
    assert nothing is not None
    assert nothing.state is State.UNKNOWN


def test_a_clock_that_is_ahead_makes_nothing_older(settings: Settings) -> None:
    assert verdict(settings, "gpu/4", Place("a", 9, V100), age=-900).text == "free now"


def test_what_needs_nothing_has_no_verdict(settings: Settings) -> None:
    assert judge(offer(settings, "small"), None, now=NOW, stale_s=120) is None
