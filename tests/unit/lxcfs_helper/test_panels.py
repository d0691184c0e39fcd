# SPDX-License-Identifier: Apache-2.0
"""Containers on the node page: what each sees beside the node's values."""

from __future__ import annotations

import pytest

from agents.panels import Tone
from lxcfs_helper.panels import panels, views_state
from tests.fakes.status_documents import views_document


def test_each_is_shown_beside_the_node_and_trouble_comes_first() -> None:
    items = panels(views_document(9))[0].items
    assert items[0].state == "failed: no such process"
    assert items[-1].state == "excluded: its namespace is not selected"
    facts = dict(items[1].facts)
    assert facts["CPUs"] == "4 of the node's 96"
    assert facts["memory"] == "16.0 GiB of the node's 512.0 GiB"
    assert items[-1].bar is None
    assert not items[-1].facts


@pytest.mark.parametrize(
    ("views", "state", "tone"),
    [
        ({"meminfo": "attached", "cpuinfo": "attached"}, "attached", Tone.GOOD),
        ({"meminfo": "attached", "uptime": "off"}, "attached", Tone.GOOD),
        ({"meminfo": "attached", "cpu": "host"}, "attached where it differs", Tone.GOOD),
        ({"meminfo": "host", "cpu": "host"}, "host", Tone.PLAIN),
        ({"meminfo": "attached", "cpu": "missing"}, "cpu missing", Tone.NOTICE),
        ({"meminfo": "failed: x", "cpu": "attached"}, "meminfo failed: x", Tone.BAD),
        ({}, "", Tone.PLAIN),
    ],
)
def test_views_in_one_word(views: dict[str, str], state: str, tone: Tone) -> None:
    assert views_state(views) == (state, tone)


def test_before_the_first_look_nobody_is_said_to_run() -> None:
    assert panels({"ready": False})[0].notes == []
    assert panels({"ready": True})[0].notes == ["no container runs here"]
