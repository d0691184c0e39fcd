# SPDX-License-Identifier: Apache-2.0
"""What shall be after failures: mounts of one server wait together, an operator for nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import trio

from agents.errors import AgentError, Unavailable
from agents.hostfs import HostFs
from fuse_mounter import wishes
from fuse_mounter.breaker import TRIPS_AT
from fuse_mounter.config import MounterConfig
from fuse_mounter.drivers.base import MountBase
from fuse_mounter.places import Places
from fuse_mounter.plan import Want
from fuse_mounter.record import Record
from fuse_mounter.states import Judgement, State
from fuse_mounter.wishes import Wishes

CONFIG = MounterConfig.model_validate(
    {
        "mounts": [
            {"name": "a", "path": "a", "driver": "nfs", "source": "nfs.example.org:/a"},
            {"name": "b", "path": "b", "driver": "nfs", "source": "nfs.example.org:/b"},
            {"name": "c", "path": "c", "driver": "nfs", "source": "other.example.org:/c"},
        ]
    }
)


class Drivers:
    """All that are asked for; `missing` is what their preflight finds."""

    def __init__(self) -> None:
        self.missing: AgentError | None = None
        self.asked = 0
        self.has_client = True

    def of(self, _: MountBase) -> Drivers:
        return self

    def preflight(self, *_: object) -> AgentError | None:
        self.asked += 1
        return self.missing

    def server(self, mount: MountBase) -> str:
        return str(getattr(mount, "source", "")).partition(":")[0]


@pytest.fixture
def drivers(monkeypatch: pytest.MonkeyPatch) -> Drivers:
    made = Drivers()
    monkeypatch.setattr(wishes, "driver_of", made.of)
    return made


@pytest.fixture
def some(tmp_path: Path, drivers: Drivers) -> Wishes:
    return Wishes(Places(tmp_path / "root", tmp_path / "run"), HostFs(), lambda _: ())


def by_name(some: Wishes) -> dict[str, Want]:
    return {want.name: want for want in some.all(CONFIG)}


async def test_mounts_of_one_server_wait_together(some: Wishes) -> None:
    for _ in range(TRIPS_AT):
        some.failed(CONFIG.mounts[0], "no route to host")
    wants = by_name(some)
    assert wants["a"].paused
    assert "nfs.example.org" in str(wants["b"].held)
    assert not wants["b"].paused, "it has not failed itself"
    assert (wants["c"].held, wants["c"].paused) == (None, False)
    some.asked_for(CONFIG.mounts[1])
    assert by_name(some)["b"].held is None


async def test_a_client_that_had_served_says_nothing_against_its_server(some: Wishes) -> None:
    record = some.record("a")
    for number in range(TRIPS_AT + 1):
        record.published = f"a@ab.{number}"
        some.ended("a", f"a@ab.{number}", "killed by SIGKILL", CONFIG.mounts)
    assert some.breakers.tripped() == {}
    for number in range(TRIPS_AT):
        some.ended("b", f"b@ab.{number}", "ended with code 1", CONFIG.mounts)
    assert set(some.breakers.tripped()) == {"nfs.example.org"}


async def test_preflight_is_counted_when_it_begins_to_fail(some: Wishes, drivers: Drivers) -> None:
    drivers.missing = Unavailable("no program mount.nfs", remedy="install nfs-common")
    for _ in range(3):
        assert "install nfs-common" in str(by_name(some)["a"].problem)
    assert some.record("a").preflight_failures == 1
    assert drivers.asked == 3, "once for each mount: the answer is good for a moment"


async def test_a_drained_mount_comes_back_when_it_is_configured_anew(some: Wishes) -> None:
    some.drained.add(CONFIG.mounts[0])
    assert by_name(some)["a"].drained
    changed = CONFIG.mounts[0].model_copy(update={"path": "elsewhere"})
    config = CONFIG.model_copy(update={"mounts": (changed, *CONFIG.mounts[1:])})
    assert not some.all(config)[0].drained
    assert not by_name(some)["a"].drained, "it was configured anew once"


async def test_the_next_agent_knows_what_is_drained(some: Wishes, tmp_path: Path) -> None:
    places = Places(tmp_path / "root", tmp_path / "run")

    def of_the_next_one() -> bool:
        return by_name(Wishes(places, HostFs(), lambda _: ()))["a"].drained

    some.drained.add(CONFIG.mounts[0])
    assert not of_the_next_one(), "there is no directory to write it to, and that is no error"
    places.own.mkdir(parents=True)
    some.drained.add(CONFIG.mounts[0])
    assert of_the_next_one()
    some.asked_for(CONFIG.mounts[0])
    assert not of_the_next_one()
    for nonsense in ("", "[]", "{", '{"a": 5}'):
        places.drained.write_text(nonsense)
        assert not of_the_next_one()


async def test_what_is_not_configured_any_more_is_forgotten(some: Wishes) -> None:
    for _ in range(TRIPS_AT):
        some.failed(CONFIG.mounts[0], "no route to host")
    assert some.all(MounterConfig()) == []
    assert some.records == {}
    assert some.breakers.tripped() == {}


@pytest.mark.parametrize("jump_s", [-10 * 365 * 86400.0, 10 * 365 * 86400.0])
async def test_a_clock_that_is_set_changes_no_decision(
    some: Wishes, jump_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wall clock is for people: pauses, ages and gaps go by the monotonic one."""
    some.failed(CONFIG.mounts[0], "no route to host")
    record, wall = some.record("a"), time.time
    record.judged(Judgement(State.PUBLISHED), now=trio.current_time(), wall=wall())
    before = by_name(some)
    monkeypatch.setattr(time, "time", lambda: wall() + jump_s)
    assert by_name(some) == before
    assert 0 < some.patience_s() < 1
    record.judged(Judgement(State.DEAD), now=1.0, wall=time.time())
    record.judged(Judgement(State.PUBLISHED), now=1.5, wall=time.time())
    assert record.last_gap_s == 0.5
    assert isinstance(record, Record)
