# SPDX-License-Identifier: Apache-2.0
"""Rounds of the reconciler, where the order of events cannot be had from a real node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from agents.hostfs import HostFs
from agents.logs import get_logger
from agents.mounts import LinuxMounts
from fuse_mounter.config import MounterConfig
from fuse_mounter.look import Looker
from fuse_mounter.observed import Observation
from fuse_mounter.places import Places
from fuse_mounter.reconciler import Reconciler
from fuse_mounter.standing import Standing


async def test_a_configuration_that_changes_in_the_middle_of_a_round_counts_from_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = {"name": "a", "driver": "bind", "path": "a", "source": tmp_path / "not-there"}
    full = MounterConfig.model_validate({"root": tmp_path / "root", "mounts": [mount]})
    empty = MounterConfig(root=tmp_path / "root")
    told: list[Standing] = []
    places = Places(tmp_path / "root", tmp_path / "run")
    reconciler = Reconciler(full, places, LinuxMounts(), HostFs(), get_logger(), told.append)

    async def look(*_: object) -> Observation:
        reconciler.apply(empty)
        return Observation(root_ready=True)

    async def take(*_: object) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Looker, "look", look)
    monkeypatch.setattr(reconciler, "_take", take)
    nobody: Any = None
    async with trio.open_nursery() as nursery:
        await reconciler.round(nobody, nursery)
        await reconciler.round(nobody, nursery)
    assert [[one.name for one in standing.mounts] for standing in told] == [["a"], []]
