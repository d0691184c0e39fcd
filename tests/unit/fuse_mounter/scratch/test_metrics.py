# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from fuse_mounter.scratch.keeper import ScratchStatus
from fuse_mounter.scratch.metrics import collect
from fuse_mounter.scratch.outcome import Outcome, Skipped
from fuse_mounter.scratch.outcome_text import status_table

PREFIX = "nodeshare_mount_scratch_"


def samples(*statuses: ScratchStatus) -> dict[tuple[str, str | None], float]:
    return {
        (
            sample.name.removeprefix(PREFIX),
            sample.labels.get("reason", sample.labels.get("result")),
        ): sample.value
        for family in collect("nodeshare_mount", statuses)
        for sample in family.samples
    }


def test_all_that_a_run_told() -> None:
    outcome = Outcome(armed=True, scanned=10, scanned_bytes=1000, removed=3, removed_bytes=30)
    outcome.skipped = {Skipped.OPEN: 2, Skipped.ANNOUNCED: 4}
    outcome.announced_bytes, outcome.oldest = 40, 5.0
    status = ScratchStatus(
        "scratch",
        armed=True,
        outcome=outcome.document(),
        seconds=1.5,
        last_run=100.0,
        next_run=200.0,
        removed=9,
        removed_bytes=90,
        runs={"done": 2, "failed": 1},
    )
    found = samples(status)
    for name, value in (
        ("armed", 1),
        ("scanned_files", 10),
        ("scanned_bytes", 1000),
        ("due_files", 3),
        ("due_bytes", 30),
        ("announced_bytes", 40),
        ("removed_files_total", 9),
        ("removed_bytes_total", 90),
        ("duration_seconds", 1.5),
        ("last_run_timestamp_seconds", 100),
        ("next_run_timestamp_seconds", 200),
        ("oldest_timestamp_seconds", 5),
    ):
        assert found[name, None] == value
    assert (found["runs_total", "done"], found["runs_total", "failed"]) == (2, 1)
    assert {why for name, why in found if name == "skipped_files"} == {w.value for w in Skipped}
    assert found["skipped_files", "open"] == 2


def test_before_the_first_run_nothing_is_made_up() -> None:
    found = samples(ScratchStatus("scratch", armed=False))
    assert set(found) == {
        ("armed", None),
        ("removed_files_total", None),
        ("removed_bytes_total", None),
        ("runs_total", "done"),
        ("runs_total", "failed"),
    }
    assert samples() == {}


def test_what_people_see_in_the_status() -> None:
    table = status_table(
        [
            ScratchStatus("scratch", armed=True, last_run=0.0, problem="no").to_json(),
            ScratchStatus("other", armed=False, running=True).to_json(),
        ]
    )
    assert table is not None
    assert [list(row)[0:2] for row in table.rows] == [
        ["scratch", "yes"],
        ["other", "no, it only counts"],
    ]
    assert table.rows[0][4] == "no"
    assert table.rows[1][2] == "now"
    assert status_table([]) is None
