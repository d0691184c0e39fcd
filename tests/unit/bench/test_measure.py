# SPDX-License-Identifier: Apache-2.0
"""Figures, ratios, goals, and what becomes of a subject that cannot be measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import scan
from tests.bench.__main__ import Outcome, measured, summary
from tests.bench.measure import (
    COLUMNS,
    Context,
    NotHere,
    Row,
    at_most,
    median,
    once,
    quantile,
    short,
    times_the_peer,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0242, "0.0242"),
        (0.3, "0.3"),
        (10, "10"),
        (12.34, "12.3"),
        (355750.2, "355,750"),
    ],
)
def test_three_digits_that_count(value: float, text: str) -> None:
    assert short(value) == text


def test_figures_keep_all_repetitions() -> None:
    values = [5.0, 1.0, 3.0, 100.0]
    assert median(values, "ms").value == 4.0
    assert quantile(values, 0.99, "ms").value == 100.0
    assert quantile(values, 0.5, "ms").value == 3.0
    assert median(values, "ms").repetitions == tuple(values)


@pytest.mark.parametrize(
    ("row", "met"),
    [
        pytest.param(Row("a", once(2, "ms"), goal=at_most(2, "ms")), True, id="at the bound"),
        pytest.param(Row("a", once(2.1, "ms"), goal=at_most(2, "ms")), False, id="over it"),
        pytest.param(Row("a", once(2, "ms")), None, id="no goal"),
        pytest.param(Row("a", None, goal=at_most(2, "ms")), None, id="not measured"),
        pytest.param(
            Row("a", once(140, ""), "b", once(2, ""), times_the_peer(70)), True, id="70 times"
        ),
        pytest.param(
            Row("a", once(139, ""), "b", once(2, ""), times_the_peer(70)), False, id="not quite"
        ),
        pytest.param(
            Row("a", once(140, ""), "b", None, times_the_peer(70)), None, id="no peer here"
        ),
    ],
)
def test_goal_is_met_or_not_or_neither(row: Row, met: bool | None) -> None:
    assert row.met is met
    assert len(row.cells()) == len(COLUMNS)
    assert json.loads(json.dumps(row.document()))["met"] is met


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(tmp_path / "scan", quick=True)


def outcome_of(monkeypatch: pytest.MonkeyPatch, context: Context, problem: Exception) -> Outcome:
    def measure(_: Context) -> list[Row]:
        raise problem

    monkeypatch.setattr(scan, "measure", measure)
    return measured("scan", context)


def test_subject_that_fails_is_reported_with_its_error(
    monkeypatch: pytest.MonkeyPatch, context: Context
) -> None:
    outcome = outcome_of(monkeypatch, context, RuntimeError("the agent ended"))
    assert "RuntimeError: the agent ended" in outcome.error
    assert "FAILED: RuntimeError: the agent ended" in outcome.table().note
    assert summary([outcome]).endswith("not measured: scan")


def test_subject_without_its_peer_is_reported_as_such(
    monkeypatch: pytest.MonkeyPatch, context: Context
) -> None:
    outcome = outcome_of(monkeypatch, context, NotHere("lxcfs is not installed"))
    assert (outcome.error, outcome.missing) == ("", "lxcfs is not installed")
    assert "not measured: lxcfs is not installed" in outcome.table().note
