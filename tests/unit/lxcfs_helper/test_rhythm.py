# SPDX-License-Identifier: Apache-2.0
"""However somebody reads: no value gets older than is promised, and nobody is looked at in vain."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from lxcfs_helper.rhythm import IDLE_S, MAX_AGE_S, READ_AGAIN_S, Rhythm

HEARTBEAT_S = 0.9


def looks(reads: list[float], end: float) -> list[float]:
    """When it is looked at, if every look is at its last moment, and every read is told at once."""
    rhythm, now, found = Rhythm(), 0.0, []
    waiting = sorted(reads)
    while now < end:
        if waiting and waiting[0] < rhythm.look_before:
            now = max(now, waiting.pop(0))
            if rhythm.expected:
                rhythm.read(now, HEARTBEAT_S)
            continue
        now = max(now, rhythm.look_before)
        found.append(now)
        rhythm.looked(now, HEARTBEAT_S)
        if rhythm.to_expect(now):
            rhythm.expect()
    return found


@given(st.lists(st.floats(0, 60), max_size=40))
def test_nothing_gets_old(reads: list[float]) -> None:
    times = looks(reads, 90.0)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert max(gaps) <= IDLE_S + 1e-9 < MAX_AGE_S


@given(st.floats(0.05, 4.0), st.floats(5, 15))
def test_who_reads_again_and_again_sees_what_is_no_older_than_a_heartbeat(
    every: float, begin: float
) -> None:
    reads = [begin + number * every for number in range(int(30 / every))]
    times = looks(reads, reads[-1] + 1)
    for read in reads[1:]:
        last = max(time for time in times if time <= read)
        assert read - last <= HEARTBEAT_S + 1e-9


def test_nobody_reads_so_few_looks_are_enough() -> None:
    assert len(looks([], 60.0)) <= 60 / IDLE_S + 2
    once = looks([20.0], 60.0)
    during = [time for time in once if 20 <= time <= 20 + READ_AGAIN_S]
    assert READ_AGAIN_S / HEARTBEAT_S - 2 <= len(during) <= READ_AGAIN_S / HEARTBEAT_S + 3
    assert len(once) - len(during) <= 50 / IDLE_S + 3
