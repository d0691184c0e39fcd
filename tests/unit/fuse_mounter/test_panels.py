# SPDX-License-Identifier: Apache-2.0
"""Mounts on the node page: those in trouble first, with what happened last."""

from __future__ import annotations

from agents.panels import Tone
from fuse_mounter.panels import panels
from fuse_mounter.states import State
from tests.fakes.status_documents import mounts_document


def test_trouble_comes_first_with_its_cause_and_last_changes() -> None:
    items = panels(mounts_document(8))[0].items
    assert [item.name for item in items][:2] == ["mount-006", "mount-000"]
    facts = dict(items[0].facts)
    assert items[0].tone is Tone.BAD
    assert facts["because"] == "its client was killed by SIGKILL"
    assert facts["its server"] == "failed 4 times in a row, and is waited for"
    assert facts["brought back"] == "2 times, the last after 0.12 s"
    times = [event.at for event in items[0].events]
    assert times == sorted(times, reverse=True)
    assert len(times) == 5


def test_every_state_has_its_tone() -> None:
    document = mounts_document(1)
    tones = {}
    for state in State:
        document["mounts"][0]["state"] = state.value
        tones[state] = panels(document)[0].items[0].tone
    assert [state for state in State if tones[state] is Tone.GOOD] == [State.PUBLISHED]
    bad = {State.HUNG, State.DEAD, State.FAILED}
    assert {state for state in State if tones[state] is Tone.BAD} == bad


def test_room_is_a_bar_only_where_it_is_known() -> None:
    document = mounts_document(1)
    (item,) = panels(document)[0].items
    assert item.bar is not None
    assert "available" in item.bar.text
    document["mounts"][0]["space"] = None
    assert panels(document)[0].items[0].bar is None


def test_nothing_configured_is_said() -> None:
    assert panels({})[0].notes == ["no mount is configured"]
