# SPDX-License-Identifier: Apache-2.0
"""What is to be done about each user's token now, and when to look again. Pure: knows no file, no
provider and no clock but the one it is told.

A token is renewed when two thirds of its life are over. When that fails it is tried again after
`back_off` with jitter, also after it has ended; only what the provider refuses for good waits for
the user to log in again.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from fuse_mounter.credentials.tokens import Login, Token

_FIRST_S, _LONGEST_S = 5.0, 300.0
#: A token without an end is asked for anew so often.
_UNKNOWN_LIFE_S = 1800.0
#: Never more often than that, however short its life is said to be.
_LEAST_S = 2.0


class Need(enum.Enum):
    """What a user's token needs."""

    NOTHING = "nothing"
    RENEWAL = "renewal"
    LOGIN = "login"  # only the user himself can help


@dataclass(frozen=True, slots=True)
class Holding:
    """What is known of one user's token of one class. `login` None: he is not there any more.
    `stale`: the token is to be renewed before its time. `failures` in a row; `not_before`: no
    attempt until then (seconds of the epoch). `refused`: the provider said that the user must log
    in again. `problem`: why there is no new token; `unwritten`: why the token that is here is in no
    file.
    """

    login: Login | None = None
    token: Token | None = None
    stale: bool = False
    failures: int = 0
    not_before: float = 0.0
    refused: bool = False
    problem: str | None = None
    unwritten: str | None = None


def followed(holding: Holding, login: Login) -> Holding:
    """After the source was looked at: a new login makes up for every failure. One that replaced
    another may have ended the tokens of that.
    """
    before = holding.login
    if before is not None and (before.access, before.refresh) == (login.access, login.refresh):
        return replace(holding, login=login)
    again = before is not None and before.refresh != login.refresh
    return Holding(login, holding.token, stale=holding.stale or again, unwritten=holding.unwritten)


def taken_over(holding: Holding) -> Holding:
    """The access token of the login itself, where it is what is wanted, and good for longer."""
    access = holding.login.access if holding.login is not None else None
    if access is None or (holding.token is not None and _end(access) <= _end(holding.token)):
        return holding
    return replace(holding, token=access, stale=False)


def need(holding: Holding, now: float) -> Need:
    """Now."""
    token, login = holding.token, holding.login
    if token is not None and not holding.stale and now < next_renewal(token):
        return Need.NOTHING
    usable = login is not None and (
        login.refresh is not None or (login.access is not None and login.access.valid(now))
    )
    if holding.refused or not usable:
        return Need.NOTHING if token is not None and token.valid(now) else Need.LOGIN
    return Need.NOTHING if _waits(holding, now) else Need.RENEWAL


def due(holdings: Mapping[int, Holding], now: float) -> Iterable[int]:
    """Users whose tokens are to be renewed now, those first whose end is nearest."""
    found = [uid for uid, one in holdings.items() if need(one, now) is Need.RENEWAL]
    return sorted(found, key=lambda uid: _ends(holdings[uid]))


def next_renewal(token: Token) -> float:
    """Seconds of the epoch."""
    at = token.renew_at()
    if at is None:
        return token.obtained + _UNKNOWN_LIFE_S
    return max(at, token.obtained + _LEAST_S)


def renewed(holding: Holding, token: Token, asked_with: Login) -> Holding:
    """It worked, with what the login was when it was asked for."""
    login = holding.login
    stale = login is not None and login.refresh != asked_with.refresh
    return Holding(login, token, stale=stale)


def failed(
    holding: Holding,
    problem: str,
    now: float,
    *,
    refused: bool = False,
    jitter: Callable[[], float] = random.random,
) -> Holding:
    """It did not."""
    return replace(
        holding,
        failures=holding.failures + 1,
        not_before=now + back_off(holding.failures, jitter=jitter),
        refused=refused,
        problem=problem,
    )


def back_off(failures: int, *, jitter: Callable[[], float] = random.random) -> float:
    """Seconds to wait after so many failures before: between half and the whole of the pause, so
    that not all come back at once.
    """
    pause = min(_LONGEST_S, _FIRST_S * 2.0 ** min(failures, 16))
    return pause * (0.5 + jitter() / 2)


def next_look(holding: Holding, now: float) -> float:
    """When something may have to be done, if the source says nothing new (seconds of the epoch)."""
    if need(holding, now) is Need.RENEWAL:
        return now
    token = holding.token
    times: list[float] = []
    if _waits(holding, now):
        times.append(holding.not_before)
    if token is not None:
        times += [next_renewal(token), _end(token)]
    return min((time for time in times if time > now), default=now + _LONGEST_S)


def _waits(holding: Holding, now: float) -> bool:
    """A pause that is longer than any means that the clock was set back."""
    return 0 < holding.not_before - now <= _LONGEST_S


def _end(token: Token) -> float:
    return float("inf") if token.expires is None else token.expires


def _ends(holding: Holding) -> float:
    return 0.0 if holding.token is None else _end(holding.token)
