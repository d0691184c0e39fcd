# SPDX-License-Identifier: Apache-2.0
"""GPUs on the node page: bars that add up, and nothing unknown drawn as free."""

from __future__ import annotations

from typing import Any

import pytest

from agents.panels import Fill, Item, Tone
from gpu_plugin.panels import panels
from gpu_plugin.verdicts import Standing
from tests.fakes.status_documents import GIB, gpu_document


def first_device(document: dict[str, Any]) -> Item:
    return panels(document)[0].items[0]


def amounts(item: Item) -> dict[Fill, float]:
    assert item.bar is not None
    found: dict[Fill, float] = {}
    for part in item.bar.parts:
        found[part.fill] = found.get(part.fill, 0) + part.amount
    return found


def of_one(**container: object) -> dict[str, Any]:
    """A device of 80 GiB, 0.5 of it reserved, with one container that was given 40."""
    document = gpu_document()
    document["containers"][0] |= {"request": 40 * GIB, "limit": 60 * GIB, **container}
    return document


def test_a_bar_is_used_given_others_free_and_reserved() -> None:
    document = of_one(used=30 * GIB)
    document["devices"][0]["memory_used"] = 35 * GIB
    parts = amounts(first_device(document))
    assert parts == {
        Fill.USED: 30 * GIB,
        Fill.KEPT: 10 * GIB,
        Fill.OTHER: 5 * GIB,
        Fill.FREE: 34.5 * GIB,
        Fill.RESERVED: 0.5 * GIB,
    }
    assert sum(parts.values()) == 80 * GIB


def test_more_given_than_there_is_shrinks_to_the_room() -> None:
    document = of_one(used=30 * GIB, request=400 * GIB)
    document["devices"][0]["memory_used"] = 30 * GIB
    parts = amounts(first_device(document))
    assert parts[Fill.KEPT] == pytest.approx(49.5 * GIB)
    assert sum(parts.values()) == pytest.approx(80 * GIB)


def test_what_the_driver_does_not_tell_is_not_free() -> None:
    document = of_one(used=None)
    document["devices"][0]["memory_used"] = None
    device = first_device(document)
    parts = amounts(device)
    assert Fill.FREE not in parts
    assert parts[Fill.UNKNOWN] == 79.5 * GIB
    assert dict(device.facts)["free"] == "unknown"
    assert dict(device.items[0].facts)["used"] == "unknown"
    assert set(amounts(device.items[0])) == {Fill.UNKNOWN}


def test_a_container_is_drawn_within_its_limit_with_its_request_marked() -> None:
    shown = first_device(of_one(used=30 * GIB)).items[0]
    assert shown.bar is not None
    assert (shown.bar.whole, list(shown.bar.marks)) == (60 * GIB, [40 * GIB])
    over = first_device(of_one(used=70 * GIB, over_limit=True, state="over_limit")).items[0]
    assert over.bar is not None
    assert (over.bar.whole, list(over.bar.marks)) == (70 * GIB, [40 * GIB, 60 * GIB])
    assert (over.state, over.tone) == ("over its limit", Tone.BAD)
    assert Fill.OVER in amounts(over)


def test_who_was_given_nothing_is_said_to_be_uninvited() -> None:
    shown = first_device(of_one(resource="", request=0, used=GIB, state="uninvited")).items[0]
    assert ("given", "nothing of this device") in shown.facts
    assert Fill.OVER in amounts(shown)


def test_every_standing_has_its_words() -> None:
    for standing in Standing:
        shown = first_device(of_one(state=standing.value)).items[0]
        assert "_" not in shown.state, standing


def test_a_node_without_gpus_says_so_and_one_that_was_not_looked_at_says_nothing() -> None:
    assert panels({}) == []
    (idle,) = panels({"idle": True})
    assert idle.notes == ["no NVIDIA GPU on this node"]
