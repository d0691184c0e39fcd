# SPDX-License-Identifier: Apache-2.0
"""The files of containers: when they are written, what stays when they cannot be, who is told."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from agents.logs import get_logger
from agents.processes import ProcessKey
from gpu_plugin import container_files
from gpu_plugin.accounting import Accounting, GpuContainer
from gpu_plugin.allocation import Share, SharedDevice
from gpu_plugin.container_activity import Activity
from gpu_plugin.container_pages import HEARTBEAT_S, Batch, ContainerPages
from gpu_plugin.identity import Allocations
from gpu_plugin.verdicts import Act, Action
from tests.fakes.gpu_scans import (
    DEVICES,
    EPOCH,
    FIRST,
    GIB,
    act,
    container,
    grant,
    scan,
    use,
    verdict,
)


class Case:
    """One allocation, its container, and what looks after its files."""

    def __init__(self, directory: Path) -> None:
        self.allocations = Allocations(directory / "gpu")
        self.allocations.prepare()
        self.proc = directory / "proc"
        self.directory = self.allocate()
        self.pages = self.agent()

    def agent(self) -> ContainerPages:
        return ContainerPages(self.allocations.containers, self.proc, get_logger())

    def allocate(self) -> Path:
        device = SharedDevice(FIRST, "V100", None, tuple(range(8)), 8 * GIB)
        return self.allocations.make(Share("nodeshare/gpu-memory", (device,), simulated=True))

    def container(self, used: int = 6 * GIB) -> GpuContainer:
        return container("ada", grant(self.directory.name), use(11, used))

    def write(self, at: float, found: GpuContainer | None = None, **fields: Any) -> int:
        mine = found or self.container()
        return self.pages.write(batch(scan(mine, at=at), mine, **fields))

    def read(self, name: str = "status") -> str:
        return (self.directory / name).read_text()

    def touched(self) -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in self.directory.iterdir()}


def batch(
    accounting: Accounting, *containers: GpuContainer, acts: tuple[Act, ...] = (), **fields: Any
) -> Batch:
    verdicts = {key: one for found in containers for key, one in verdict(found, **fields).items()}
    activity = {(one.key, FIRST): Activity(accounting.at - 5, 0.5) for one in containers}
    return Batch(accounting, verdicts, activity, DEVICES, simulated=True, acts=acts)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_before_the_first_scan_the_files_say_that_nothing_was_measured(case: Case) -> None:
    assert "8 units, 8GiB" in case.read()
    assert "not measured yet" in case.read()
    assert json.loads(case.read("status.json"))["written_at"] is None
    assert case.read("events") == ""
    assert os.access(case.directory / "nodeshare-gpu", os.X_OK)


def test_files_are_written_when_they_say_something_else_and_as_heartbeat(case: Case) -> None:
    assert case.write(100.0) == 0
    assert "6.0 GiB" in case.read()
    written = case.touched()
    assert case.write(101.0) == 0
    assert case.touched() == written
    case.write(100.0 + HEARTBEAT_S)
    document = json.loads(case.read("status.json"))
    assert document["written_at"] == int(EPOCH + 100 + HEARTBEAT_S)
    assert "Written 2026-11-21T14:05:22Z" in case.read()
    assert document["devices"][0]["active_at"] == int(EPOCH + 110)
    case.write(116.0, case.container(7 * GIB))
    assert "7.0 GiB" in case.read()


def test_a_heartbeat_changes_nothing_but_the_time(case: Case) -> None:
    found = container("ada", grant(case.directory.name))

    def write(at: float) -> int:
        return case.pages.write(Batch(scan(found, at=at), {}, {}, DEVICES, simulated=True))

    write(100.0)
    inodes = [(case.directory / name).stat().st_ino for name in ("status", "status.json")]
    before = case.read()
    write(100.0 + HEARTBEAT_S)
    assert case.read() == before.replace("14:05:07Z", "14:05:22Z") != before
    assert json.loads(case.read("status.json"))["written_at"] == int(EPOCH + 100 + HEARTBEAT_S)
    found_inodes = [(case.directory / name).stat().st_ino for name in ("status", "status.json")]
    assert found_inodes == inodes
    (case.directory / "status").write_text("somebody else's, and shorter\n")
    write(100.0 + 2 * HEARTBEAT_S)
    assert case.read() == before.replace("14:05:07Z", "14:05:37Z"), "then it is written whole"


def test_every_allocation_of_a_container_shows_all_of_it(case: Case) -> None:
    second = case.allocate()
    found = container("ada", grant(case.directory.name), grant(second.name, 2), use(11, GIB))
    case.write(100.0, found)
    assert (second / "status").read_text() == case.read()
    assert "10 units" in case.read()


def test_events_outlive_the_agent_and_the_container(case: Case) -> None:
    (case.proc / "11").mkdir(parents=True)
    (case.proc / "11/status").write_text("Name:\tpython3\nNSpid:\t11\t42\t1\n")
    mine = case.container()
    case.write(100.0)
    killed = act(mine, process=ProcessKey(11, 7))
    gone = container("ada", grant(case.directory.name))
    case.write(101.0, gone, acts=(killed,))
    assert "ended python3 (pid 42), which held 3.0 GiB" in case.read("events")
    assert "Last event" in case.read()
    case.pages = case.agent()
    case.write(102.0, acts=(act(mine, Action.WARN, at=102.0),))
    assert [line.split(": ")[1] for line in case.read("events").splitlines()] == ["GPU 0", "GPU 0"]
    case.write(103.0, acts=tuple(act(mine, Action.WARN, at=103.0 + n) for n in range(60)))
    assert len(case.read("events").splitlines()) == 50
    events = json.loads(case.read("status.json"))["events"]
    assert (len(events), events[-1]["at"]) == (50, int(EPOCH) + 162)


def test_two_agents_beside_each_other_lose_no_event(case: Case) -> None:
    """As in a rolling update: both know the container, and each tells what it did."""
    other = case.agent()
    mine = case.container()
    for number in range(6):
        pages = other if number % 2 else case.pages
        at = 100.0 + number
        told = act(mine, Action.WARN, at=at)
        pages.write(batch(scan(mine, at=at), mine, acts=(told,)))
    assert len(case.read("events").splitlines()) == 6
    assert len(json.loads(case.read("status.json"))["events"]) == 6


def test_an_act_about_a_container_that_just_ended_is_told(case: Case) -> None:
    case.write(100.0)
    case.pages.write(batch(scan(at=101.0), acts=(act(case.container()),)))
    assert "ended python3" in case.read("events")


def test_a_bad_annotation_is_told_once(case: Case) -> None:
    for at in (100.0, 101.0):
        case.write(at, problem="annotation x: 'y' has no unit")
    case.pages = case.agent()
    case.write(102.0, problem="annotation x: 'y' has no unit")
    assert case.read("events").count("limit: GPU 0: annotation x: 'y' has no unit") == 1


def test_a_new_agent_brings_the_program_up_to_date_and_clears_up(case: Case) -> None:
    program = case.directory / "nodeshare-gpu"
    program.write_text("of an earlier version")
    (case.directory / ".status.0123abcd").write_text("half")
    case.write(100.0)
    assert program.read_text() == container_files.standing()["nodeshare-gpu"]
    assert program.stat().st_mode & 0o777 == 0o755
    assert {path.name for path in case.directory.iterdir()} == {
        *("share.json", "status", "status.json", "events", "nodeshare-gpu")
    }


@pytest.mark.loud
def test_on_a_full_disk_the_old_file_stays_and_it_is_said_once(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.write(100.0)
    before = {path.name: path.read_bytes() for path in case.directory.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, capture_logs() as logs:
        patched.setattr(container_files, "replace_file", full)
        for at in (101.0, 102.0):
            assert case.write(at, case.container(7 * GIB)) == 1
    assert {path.name: path.read_bytes() for path in case.directory.iterdir()} == before
    assert [one["event"] for one in logs] == ["containers cannot be shown their GPU memory"]
    assert logs[0]["error"] == "No space left on device"
    with capture_logs() as logs:
        assert case.write(103.0, case.container(7 * GIB)) == 0
    assert "7.0 GiB" in case.read()
    assert [one["event"] for one in logs] == ["containers are shown their GPU memory again"]


def test_what_a_former_attempt_left_is_replaced_and_not_written_into(case: Case) -> None:
    """It may be a link to a file that all containers share."""
    case.write(100.0)
    shared = case.allocations.containers.parent / "standing" / "status.json"
    before = shared.read_text()
    for name in ("status", "status.json"):
        os.link(shared, case.directory / f".{name}.{case.pages._files._mark}")
    assert case.write(101.0, case.container(7 * GIB)) == 0
    assert "7.0 GiB" in case.read()
    assert shared.read_text() == before
    assert not [path for path in case.directory.iterdir() if path.name.startswith(".")]


def test_where_nothing_can_be_linked_there_are_copies(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    made = case.allocate()
    for name, text in container_files.standing().items():
        assert (made / name).read_text() == text
        assert (made / name).stat().st_mode & 0o777 == container_files.mode(name)
    assert case.allocations.recorded()


@pytest.mark.loud
def test_a_directory_that_went_missing_is_mended_and_written_again(case: Case) -> None:
    case.write(100.0, acts=(act(case.container()),))
    (allocation,) = case.allocations.recorded()
    for path in case.directory.iterdir():
        path.unlink()
    case.directory.rmdir()
    assert case.write(101.0, case.container(GIB)) == 1
    assert case.allocations.mend(allocation)
    assert case.write(102.0, case.container(GIB)) == 0
    assert "1.0 GiB" in case.read()


@pytest.mark.loud
def test_links_are_not_followed(case: Case, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "status").write_text("not ours\n")
    (case.directory / "status").unlink()
    (case.directory / "status").symlink_to(elsewhere / "status")
    (case.directory / "events").unlink()
    (case.directory / "events").symlink_to(elsewhere / "status")
    case.write(100.0)
    assert (elsewhere / "status").read_text() == "not ours\n"
    assert not (case.directory / "status").is_symlink()
    moved = case.directory.rename(tmp_path / "moved")
    case.directory.symlink_to(moved)
    assert case.write(101.0, case.container(GIB)) == 1
    assert "1.0 GiB" not in (moved / "status").read_text()


def test_a_reader_never_sees_a_part(case: Case, soak: bool) -> None:
    case.write(100.0)
    broken: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            for name in ("status", "status.json"):
                text = case.read(name)
                whole = text.endswith(("any more.\n", "]\n}\n"))
                if not whole or text.count("\n") < 8:
                    broken.append(text)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(5000 if soak else 200):
        used = (number % 7 + 1) * GIB
        case.write(101.0 + number, container("ada", grant(case.directory.name), use(11, used)))
    done.set()
    reader.join(10)
    assert not broken
