# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_mounter.credentials import renewal
from fuse_mounter.credentials.renewal import (
    Holding,
    Need,
    due,
    failed,
    followed,
    need,
    renewed,
    taken_over,
)
from fuse_mounter.credentials.tokens import Login, Secret, Token

NOW = 1_000_000.0


def token(obtained: float, expires: float | None) -> Token:
    return Token(Secret("t"), obtained, expires)


LOGIN = Login(1000, 1000, refresh=Secret("r"))


def test_a_token_is_renewed_when_two_thirds_of_its_life_are_over() -> None:
    holding = Holding(LOGIN, token(NOW, NOW + 3600))
    assert need(holding, NOW + 2399) is Need.NOTHING
    assert need(holding, NOW + 2400) is Need.RENEWAL
    assert renewal.next_look(holding, NOW) == NOW + 2400


def test_without_a_token_it_is_asked_for_at_once() -> None:
    assert need(Holding(LOGIN), NOW) is Need.RENEWAL


def test_failures_wait_longer_and_longer_and_a_good_answer_forgets_them() -> None:
    holding = Holding(LOGIN, token(NOW, NOW + 3000))
    waits = []
    now = NOW + 2500
    for _ in range(12):
        holding = failed(holding, "away", now, jitter=lambda: 1.0)
        waits.append(holding.not_before - now)
        assert need(holding, now) is Need.NOTHING
        now = holding.not_before
    assert waits[:4] == [5, 10, 20, 40]
    assert waits[-1] == 300
    after = renewed(holding, token(now, now + 3600), LOGIN)
    assert (after.failures, after.problem) == (0, None)


def test_a_provider_that_is_away_means_no_login_until_a_good_one_could_help() -> None:
    holding = failed(Holding(LOGIN, token(NOW, NOW + 100)), "away", NOW + 99, jitter=lambda: 0)
    assert need(holding, NOW + 200) is Need.RENEWAL  # ended meanwhile; still worth asking


@pytest.mark.parametrize(
    ("login", "expected"),
    [
        (None, Need.LOGIN),
        (Login(1, 1, access=token(0, NOW - 1)), Need.LOGIN),
        (Login(1, 1, access=token(0, NOW + 9)), Need.RENEWAL),
        (Login(1, 1, access=token(0, None)), Need.RENEWAL),
        (LOGIN, Need.RENEWAL),
    ],
)
def test_when_only_the_user_can_help(login: Login | None, expected: Need) -> None:
    assert need(Holding(login), NOW) is expected


def test_what_is_refused_is_not_asked_again_until_there_is_a_new_login() -> None:
    holding = failed(Holding(LOGIN, token(NOW, NOW + 100)), "no", NOW + 70, refused=True)
    assert need(holding, NOW + 90) is Need.NOTHING  # the token is still good
    assert need(holding, NOW + 101) is Need.LOGIN
    assert need(followed(holding, LOGIN), NOW + 101) is Need.LOGIN
    again = followed(holding, replace(LOGIN, refresh=Secret("new")))
    assert need(again, NOW + 101) is Need.RENEWAL


def test_a_new_login_renews_what_the_old_one_had_and_keeps_it_until_then() -> None:
    holding = renewed(Holding(LOGIN), token(NOW, NOW + 900), LOGIN)
    assert need(holding, NOW + 1) is Need.NOTHING
    other = replace(LOGIN, refresh=Secret("new"))
    again = followed(holding, other)
    assert again.token == holding.token
    assert need(again, NOW + 1) is Need.RENEWAL
    # What was asked for with the old one meanwhile is not the last word.
    assert need(renewed(again, token(NOW, NOW + 900), LOGIN), NOW + 1) is Need.RENEWAL
    assert need(renewed(again, token(NOW, NOW + 900), other), NOW + 1) is Need.NOTHING
    # A hub that renews the access token alone has not logged anybody in.
    hub = followed(holding, replace(LOGIN, access=token(NOW, NOW + 5)))
    assert need(hub, NOW + 1) is Need.NOTHING


def test_the_logins_own_token_is_taken_while_it_is_the_better_one() -> None:
    login = replace(LOGIN, access=token(NOW, NOW + 900))
    assert taken_over(Holding(login)).token == login.access
    better = token(NOW, NOW + 1800)
    assert taken_over(Holding(login, better)).token == better
    assert taken_over(Holding(LOGIN)).token is None


def test_whose_token_ends_first_is_first() -> None:
    holdings = {
        1: Holding(LOGIN, token(NOW - 900, NOW + 20)),
        2: Holding(LOGIN, token(NOW - 900, NOW + 10)),
        3: Holding(LOGIN, token(NOW, NOW + 900)),
        4: Holding(LOGIN),
        5: Holding(LOGIN, token(0, None)),
    }
    assert list(due(holdings, NOW)) == [4, 2, 1, 5]


def test_a_clock_that_was_set_back_makes_nobody_wait() -> None:
    holding = failed(Holding(LOGIN), "away", NOW, jitter=lambda: 1.0)
    assert need(holding, NOW + 4) is Need.NOTHING
    assert need(holding, NOW - 7200) is Need.RENEWAL


@given(
    obtained=st.floats(0, 1e9),
    life=st.one_of(st.none(), st.floats(-1e6, 1e6)),
    now=st.floats(0, 2e9),
    failures=st.integers(0, 2000),
    refused=st.booleans(),
)
def test_whatever_the_times_there_is_a_next_look_that_is_not_in_the_past(
    obtained: float, life: float | None, now: float, failures: int, refused: bool
) -> None:
    held = token(obtained, None if life is None else obtained + life)
    holding = failed(Holding(LOGIN, held, failures=failures), "x", now, refused=refused)
    assert holding.not_before <= now + 300
    look = renewal.next_look(holding, now)
    assert look >= now
    assert look > now or need(holding, now) is Need.RENEWAL
