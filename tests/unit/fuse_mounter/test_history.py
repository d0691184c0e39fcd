# SPDX-License-Identifier: Apache-2.0
"""How a client ended, as people read it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agents.holder_client import Ended
from agents.hostfs import HostFs
from agents.logs import get_logger
from agents.processes import ProcessKey
from fuse_mounter.history import History
from fuse_mounter.observed import Client, Health, Instance, Observation, Shown
from fuse_mounter.places import Places
from fuse_mounter.wishes import Wishes

KEY = ProcessKey(7, 70)
SERVES = Instance("a@ab.1", "a", "ab", 1, client=Client(KEY), shown=Shown((0, 9), "/", False))


def ended(places: Places, before: Instance | None, code: int | None) -> str:
    """What is told of a client that was killed by us as it was `before` (None: it was not)."""
    wishes = Wishes(places, HostFs(), lambda _: ())
    history = History(wishes, places, get_logger(), lambda _: None)
    if before is not None:
        history.killed(KEY, Observation(True, {}, (before,)))
    gone = replace(SERVES, client=Client(KEY, Ended(code)))
    history.account(Observation(True, {}, (gone,)), ())
    return wishes.record("a").failure


@pytest.mark.parametrize(
    ("before", "code", "told"),
    [
        (None, -9, "its client killed by SIGKILL"),
        (replace(SERVES, health=Health.HUNG), -9, "its client did not answer, and was ended"),
        (replace(SERVES, health=Health.DEAD), None, "served nobody any more, and was ended"),
        (replace(SERVES, shown=None), -9, "had nothing mounted for too long (health.start_limit)"),
        # It was quicker than we were.
        (replace(SERVES, health=Health.HUNG), 3, "its client ended with code 3"),
    ],
)
async def test_who_ended_a_client_is_told(
    tmp_path: Path, before: Instance | None, code: int | None, told: str
) -> None:
    assert told in ended(Places(tmp_path / "root", tmp_path / "run"), before, code)
