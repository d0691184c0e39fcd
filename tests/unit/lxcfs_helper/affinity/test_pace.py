# SPDX-License-Identifier: Apache-2.0
"""Whose calls are taken how often."""

from __future__ import annotations

from lxcfs_helper.affinity.pace import Pace


def test_programs_that_start_are_never_slowed_down() -> None:
    pace = Pace(10.0)
    assert not any(pace.rest_s(10.0) for _ in range(9000))
    assert not any(pace.rest_s(13.0) for _ in range(9000)), "seconds later again"


def test_who_calls_all_the_time_rests() -> None:
    pace, now, calls = Pace(0.0), 0.0, 0
    while now < 30.0:
        calls += 1
        now += 0.00005 + pace.rest_s(now)
    assert 110_000 < calls < 150_000
    assert pace.rest_s(now + 10.0) == 0.0
