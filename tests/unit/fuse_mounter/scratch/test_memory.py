# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fuse_mounter.scratch.memory import Memory, Moment, decode, encode, folder_key

DAY = 86400.0
WEEK = 7 * DAY
NOW = Moment(2e9, "boot", 1000.0)


def later(seconds: float, boot: str = "boot") -> Moment:
    return Moment(NOW.wall + seconds, boot, NOW.since_boot + seconds)


def test_what_is_written_can_be_read() -> None:
    told = {folder_key(number, f"ada/{number}"): 1e9 + number % 3 for number in range(1000)}
    memory = Memory("digest", NOW, (1e9, 2e9), told)
    assert decode(encode(memory)) == memory
    assert len(encode(memory)) < 12_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "null",
        json.dumps({"digest": "d", "last": [1, 2], "listings": [], "told": {}}),
        json.dumps({"digest": "d", "last": [1, "b", 2], "listings": ["x"], "told": {}}),
        json.dumps({"digest": "d", "last": [1, "b", 2], "listings": [], "told": {"1": "!!!"}}),
        json.dumps({"digest": "d", "last": [1, "b", 2], "listings": [], "told": {"1": "AAAA"}}),
    ],
)
def test_what_is_damaged_is_noticed(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        decode(text)


def test_a_memory_is_worth_nothing_under_another_rule_or_after_long() -> None:
    memory = Memory("digest", NOW, (NOW.wall,), {1: 1.0})
    assert memory.usable("digest", later(DAY), 2 * DAY) is memory
    assert memory.usable("other", later(DAY), 2 * DAY) == Memory("other")
    assert memory.usable("digest", later(3 * DAY), 2 * DAY) == Memory("digest")
    assert memory.usable("digest", later(DAY, "other boot"), 2 * DAY) is memory


@pytest.mark.parametrize("jump", [-2 * DAY, 2 * DAY, 3700.0])
def test_a_clock_that_was_set_since_is_noticed(jump: float) -> None:
    memory = Memory("digest", NOW, (NOW.wall,), {})
    jumped = replace(later(DAY), wall=later(DAY).wall + jump)
    assert not jumped.agrees_with(NOW)
    assert memory.usable("digest", jumped, 100 * DAY) == Memory("digest")


def test_the_first_listing_that_could_hold_it() -> None:
    memory = Memory("", NOW, (100.0, 200.0, 300.0), {})
    assert [memory.told_of(instant, 400.0) for instant in (0, 100, 150, 300)] == [
        100.0,
        100.0,
        200.0,
        300.0,
    ]
    assert memory.told_of(301, 400.0) == 400.0


def test_times_of_listings_do_not_pile_up() -> None:
    memory = Memory("")
    for minute in range(20_000):
        memory = memory.after(later(60.0 * minute), {}, WEEK)
    assert len(memory.listings) <= 1002
    # Of what became due before the grace began one is known that is old enough.
    assert memory.told_of(0, NOW.wall) <= memory.last.wall - WEEK  # type: ignore[union-attr]


def test_a_folder_is_known_by_its_place_and_itself() -> None:
    keys = {folder_key(1, "a"), folder_key(1, "b"), folder_key(2, "a"), folder_key(1, "\udcff")}
    assert len(keys) == 4
    assert folder_key(1, "a") == folder_key(1, "a") < 1 << 64
