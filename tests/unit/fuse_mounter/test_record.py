# SPDX-License-Identifier: Apache-2.0
"""Patience and history of one mount."""

from __future__ import annotations

from itertools import pairwise

import pytest

from fuse_mounter.publish import Way
from fuse_mounter.record import Record
from fuse_mounter.states import Cause, Judgement, State

PUBLISHED = Judgement(State.PUBLISHED)
DEAD = Judgement(State.DEAD, "killed", Cause.CLIENT_ENDED)


def test_a_recovery_is_counted_by_what_was_lost_first_and_the_gap_is_measured() -> None:
    record = Record()
    assert record.judged(PUBLISHED, now=1.0, wall=100.0)
    assert not record.judged(PUBLISHED, now=2.0, wall=101.0)
    hung = Judgement(State.HUNG, "", Cause.HUNG)
    assert record.judged(hung, now=3.0, wall=102.0)
    assert record.judged(DEAD, now=3.1, wall=102.1)
    assert record.judged(PUBLISHED, now=3.5, wall=102.5)
    assert record.recoveries == {Cause.HUNG: 1}
    assert record.last_gap_s == pytest.approx(0.5)
    assert record.since == 102.5


def test_the_first_publication_is_no_recovery() -> None:
    record = Record()
    record.judged(Judgement(State.STARTING), now=0.0, wall=0.0)
    record.judged(PUBLISHED, now=1.0, wall=1.0)
    assert not record.recoveries
    assert record.last_gap_s is None


def test_a_client_that_served_for_long_is_replaced_at_once() -> None:
    record = Record(failures=2, not_before=5.0)
    record.was_published("a.1", Way.FIRST, now=10.0)
    record.ended("a.1", "killed", now=100.0)
    assert (record.failures, record.not_before) == (0, 0.0)


def test_the_first_quick_death_is_forgiven_the_next_ones_wait_longer_and_longer() -> None:
    record = Record()
    delays = []
    for number in range(12):
        staging = f"a.{number}"
        record.was_published(staging, Way.BENEATH, now=100.0)
        record.ended(staging, "killed", now=101.0)
        delays.append(max(0.0, record.not_before - 101.0))
    assert delays[0] == 0.0
    assert 0.3 < delays[1] < 0.7
    assert all(b > a * 1.2 for a, b in pairwise(delays[1:7]))
    assert 24 <= delays[-1] <= 36
    assert record.failing == "killed"


def test_a_client_that_never_mounted_waits_from_the_first_time() -> None:
    record = Record()
    record.ended("a.1", "no such server", now=10.0)
    assert record.not_before > 10.0
    assert record.failing is None


def test_steady_service_makes_failures_history() -> None:
    record = Record()
    record.failed("x", now=0.0)
    record.was_published("a.1", Way.FIRST, now=1.0)
    record.steady(now=5.0)
    assert record.failures == 1
    record.steady(now=20.0)
    assert record.failures == 0


def test_the_last_changes_are_told_by_state_with_the_last_word_on_each() -> None:
    record = Record()
    for second, state, cause in (
        (1, State.STARTING, ""),
        (2, State.FAILED, "once"),
        (3, State.FAILED, "twice"),
        (4, State.PUBLISHED, ""),
    ):
        record.judged(Judgement(state, cause), now=second, wall=1000 + second)
    assert [(one.at, one.state, one.cause) for one in record.history] == [
        (1001, State.STARTING, ""),
        (1002, State.FAILED, "twice"),
        (1004, State.PUBLISHED, ""),
    ]
    for second in range(100):
        state = State.HUNG if second % 2 else State.PUBLISHED
        record.judged(Judgement(state), now=second, wall=second)
    assert len(record.history) == 10
