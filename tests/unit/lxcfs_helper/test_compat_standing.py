# SPDX-License-Identifier: Apache-2.0
"""Which step comes next for the compatible root, and what it says of itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from agents.holder_client import HeldClient
from agents.hostfs import HostFs
from agents.metrics import GuardedCollector
from agents.mountinfo import MountEntry
from agents.processes import ProcessKey
from lxcfs_helper.agent import AGENT
from lxcfs_helper.compat import metrics, report
from lxcfs_helper.compat.keeper import Standing, source_name, wanted
from lxcfs_helper.compat.report import Report
from lxcfs_helper.compat.standing import SUBTYPE, Seen, Step, decide, obstacle, to_end

RUN_DIR, ROOT = Path("/run/example"), Path("/var/lib/lxcfs")
SOURCE = source_name(RUN_DIR)
WANTED = wanted(ROOT, RUN_DIR, HostFs())
DEVICE = (0, 53)
OURS = MountEntry(
    9, 1, DEVICE, "/", str(ROOT), frozenset(), None, None, f"fuse.{SUBTYPE}", SOURCE, frozenset()
)
LXCFS = replace(OURS, fstype="fuse.lxcfs", source="lxcfs")
ANOTHERS = replace(OURS, source=source_name(Path("/run/another")))
A_FILE_OF_OURS = replace(OURS, root="/proc/meminfo")


def process(pid: int = 5, **changed: str) -> HeldClient:
    return HeldClient(ProcessKey(pid, 1), {**WANTED.labels(), **changed})


OLD = process(6, NODESHARE_VIEW_ROOT_DIGEST="0ld")


@pytest.mark.parametrize(
    ("seen", "step"),
    [
        (Seen((), ()), Step.START),
        (Seen((OURS,), ()), Step.START),  # dead; the new process takes it away
        (Seen((), (process(),)), Step.WAIT),
        (Seen((OURS,), (process(),)), Step.WAIT),  # of the one before, or not told yet
        (Seen((OURS,), (process(),), (0, 54)), Step.WAIT),
        (Seen((OURS,), (process(),), DEVICE), Step.NOTHING),
        (Seen((LXCFS, OURS), (process(),), DEVICE), Step.NOTHING),
        (Seen((OURS,), (OLD,), DEVICE), Step.END),
        (Seen((OURS,), (process(), OLD), DEVICE), Step.END),
        (Seen((OURS,), (process(5), process(7)), DEVICE), Step.END),
        (Seen((LXCFS,), ()), Step.REFUSE),
        (Seen((OURS, LXCFS), (process(),), DEVICE), Step.REFUSE),
        (Seen((ANOTHERS,), ()), Step.REFUSE),
        (Seen((A_FILE_OF_OURS,), ()), Step.REFUSE),
        (Seen((), (), occupied=True), Step.REFUSE),
    ],
)
def test_towards_a_root(seen: Seen, step: Step) -> None:
    assert decide(seen, SOURCE, WANTED) is step


@pytest.mark.parametrize(
    ("seen", "step"),
    [
        (Seen((), ()), Step.NOTHING),
        (Seen((OURS,), (process(),), DEVICE), Step.END),
        (Seen((OURS,), ()), Step.DETACH),
        (Seen((LXCFS,), ()), Step.NOTHING),
        (Seen((OURS, LXCFS), ()), Step.NOTHING),
        (Seen((ANOTHERS,), ()), Step.NOTHING),
    ],
)
def test_away_from_a_root(seen: Seen, step: Step) -> None:
    assert decide(seen, SOURCE, None) is step


def test_only_the_wrong_ones_are_ended() -> None:
    right, second = process(5), process(7)
    assert to_end(Seen((), (right, OLD)), WANTED) == [OLD]
    assert to_end(Seen((), (right, second)), WANTED) == [second]
    assert to_end(Seen((), (right, OLD)), None) == [right, OLD]


def test_another_process_is_needed_for_another_host_but_not_for_the_same() -> None:
    assert wanted(ROOT, RUN_DIR, HostFs()).digest == WANTED.digest
    assert wanted(ROOT, RUN_DIR, HostFs(proc=Path("/host/proc"))).digest != WANTED.digest
    assert wanted(Path("/other"), RUN_DIR, HostFs()).digest != WANTED.digest


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (Seen((LXCFS,), ()), "systemctl disable --now lxcfs"),
        (Seen((replace(LXCFS, fstype="tmpfs", source="x"),), ()), "umount /var/lib/lxcfs"),
        (Seen((ANOTHERS,), ()), "/run/another"),
        (Seen((), (), occupied=True), "holds something else"),
    ],
)
def test_the_obstacle_and_what_to_do(seen: Seen, said: str) -> None:
    what, remedy = obstacle(seen, ROOT)
    assert "/var/lib/lxcfs" in what
    assert said in f"{what}; {remedy}"
    assert "configure another compat_root" in remedy


REPORT = Report(DEVICE, False, {"proc/meminfo": 3, "sys/x": 2}, {"unknown caller": 1}, 4)


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    assert report.read(path) == Report()
    REPORT.write(path)
    assert report.read(path) == REPORT
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"device": 1}', '{"device": null}'])
def test_a_report_of_another_version_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    assert report.read(path) == Report()


def test_opens_are_counted_by_view() -> None:
    opens = {
        "proc/meminfo": 2,
        "proc/pressure/cpu": 1,
        "proc/pressure/io": 1,
        "sys/devices/system/cpu/online": 1,
        "sys/devices/system/cpu/cpu0/topology/core_id": 4,
    }
    assert metrics.by_view(opens) == {"meminfo": 2, "pressure": 2, "cpu": 5}


def exposed(standing: Standing) -> list[str]:
    registry = CollectorRegistry()
    document = standing.to_json()
    registry.register(GuardedCollector("x", {"root": lambda: metrics.collect(document)}))
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if line.startswith("nodeshare_")]


def test_metrics() -> None:
    lines = exposed(Standing("served", str(ROOT), pid=5, restarts=2, report=REPORT))
    assert set(lines) >= {
        'nodeshare_view_root_state{state="served"} 1.0',
        'nodeshare_view_root_state{state="failed"} 0.0',
        "nodeshare_view_root_virtual 0.0",
        'nodeshare_view_root_opens_total{view="meminfo"} 3.0',
        'nodeshare_view_root_host_answers_total{reason="unknown caller"} 1.0',
        "nodeshare_view_root_errors_total 4.0",
        "nodeshare_view_root_restarts_total 2.0",
    }
    assert exposed(Standing()) == []


def test_the_table_has_it_only_where_it_is_configured() -> None:
    assert len(AGENT.tables({"compat_root": Standing().to_json()})) == 1
    refused = Standing("refused", str(ROOT), "it is taken")
    table = AGENT.tables({"compat_root": json.loads(json.dumps(refused.to_json()))})[1]
    assert table.rows[0][:3] == [str(ROOT), "refused", "-"]
    assert table.note == "it is taken"
