# SPDX-License-Identifier: Apache-2.0
"""The breaker of a server: when it opens, who tries, and what closes it."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from fuse_mounter.breaker import TRIPS_AT, Breakers

SERVER = "eos.example.org"


def breakers(failures: int, *, now: float = 100.0) -> Breakers:
    made = Breakers(lambda: 1.0)
    for _ in range(failures):
        made.failed(SERVER, now=now)
    return made


def test_some_failures_are_chance() -> None:
    some = breakers(TRIPS_AT - 1)
    assert some.holds(SERVER, "a", now=100) is None
    assert some.tripped() == {}


def test_then_all_its_mounts_wait_and_those_of_others_do_not() -> None:
    some = breakers(TRIPS_AT)
    for name in ("a", "b"):
        assert "waited for" in str(some.holds(SERVER, name, now=100))
    assert some.holds("other.example.org", "c", now=100) is None
    assert some.holds(None, "d", now=100) is None
    assert some.tripped() == {SERVER: TRIPS_AT}
    assert some.next_try(now=100) == 1.0


def test_one_tries_and_the_others_wait_for_what_comes_of_it() -> None:
    some = breakers(TRIPS_AT)
    assert some.holds(SERVER, "a", now=102) is None
    some.started(SERVER, "a", now=102)
    assert some.holds(SERVER, "a", now=102) is None
    assert "tried by mount 'a'" in str(some.holds(SERVER, "b", now=102))
    # It neither failed nor answered: it has had its time.
    assert some.holds(SERVER, "b", now=102 + some.trial_s) is None


def test_one_that_fails_for_a_reason_of_its_own_takes_no_turn_from_the_others() -> None:
    some, now = breakers(TRIPS_AT), 100.0
    tried: list[str] = []
    while len(tried) < 6:
        now += some.next_try(now=now)
        name = next((one for one in "abc" if some.holds(SERVER, one, now=now) is None), None)
        if name is None:
            continue
        some.started(SERVER, name, now=now)
        assert some.holds(SERVER, name, now=now) is None
        some.failed(SERVER, now=now)
        tried.append(name)
    assert tried == [*"abcabc"]


def test_an_only_mount_has_its_turn_soon() -> None:
    some = breakers(TRIPS_AT)
    some.started(SERVER, "a", now=101)
    some.failed(SERVER, now=101)
    assert "by its other mounts first" in str(some.holds(SERVER, "a", now=103))
    assert some.next_try(now=103) == 0.5
    assert some.holds(SERVER, "a", now=103.5) is None


def test_a_trial_that_fails_makes_all_wait_longer() -> None:
    some = breakers(TRIPS_AT)
    some.started(SERVER, "a", now=102)
    some.failed(SERVER, now=103)
    assert some.next_try(now=103) == 2.0
    for _ in range(20):
        some.failed(SERVER, now=103)
    assert some.next_try(now=103) == 60.0


def test_an_answer_closes_it_unless_it_is_older_than_the_failure() -> None:
    some = breakers(TRIPS_AT, now=100)
    some.answered(SERVER, at=99.0)
    assert some.tripped()
    some.answered(SERVER, at=101.0)
    assert some.tripped() == {}
    assert some.holds(SERVER, "b", now=101) is None


def test_an_operator_need_not_wait() -> None:
    some = breakers(TRIPS_AT)
    some.asked_for(SERVER)
    assert some.holds(SERVER, "a", now=100) is None


def test_servers_that_nobody_uses_are_forgotten() -> None:
    some = breakers(TRIPS_AT)
    some.keep_only(set())
    assert some.tripped() == {}
    assert some.next_try(now=0) == math.inf


@given(st.lists(st.sampled_from(["failed", "answered", "started"]), max_size=30))
def test_it_never_holds_for_longer_than_its_longest_pause(events: list[str]) -> None:
    some, now = Breakers(lambda: 1.2), 0.0
    for event in events:
        now += 1
        match event:
            case "failed":
                some.failed(SERVER, now=now)
            case "answered":
                some.answered(SERVER, at=now)
            case _:
                some.started(SERVER, "a", now=now)
    assert some.holds(SERVER, "b", now=now + 73) is None
