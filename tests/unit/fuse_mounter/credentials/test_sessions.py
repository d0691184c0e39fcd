# SPDX-License-Identifier: Apache-2.0
"""Logins at a provider that is made up, one answer at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from agents.errors import Unavailable
from agents.logs import get_logger
from fuse_mounter.credentials.config import Provider
from fuse_mounter.credentials.http import Later
from fuse_mounter.credentials.provider import LoginNeeded, Refused, Renewed
from fuse_mounter.credentials.refresh_memory import RefreshMemory
from fuse_mounter.credentials.sessions import NotNow, Sessions, Wish
from fuse_mounter.credentials.tokens import Login, Secret, Token

NOW = 1000.0
LOGIN = Login(7, 7, refresh=Secret("r0"))
EOS = Wish("eos")


class Made:
    """`say` answers a refresh token or a subject; each refresh token is good once."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.say: Callable[[str], None] = lambda _: None

    def refresh(self, refresh: Secret, scope: tuple[str, ...] = ()) -> Renewed:
        self.asked.append(refresh.reveal())
        self.say(refresh.reveal())
        number = int(refresh.reveal()[1:]) + 1
        return Renewed(Token(Secret(f"a{number}"), NOW, NOW + 900), Secret(f"r{number}"))

    def exchange(self, subject: Secret, audience: str, scope: tuple[str, ...] = ()) -> Token:
        self.asked.append(f"{audience}:{subject.reveal()}")
        self.say(subject.reveal())
        return Token(Secret(f"{audience} by {subject.reveal()}"), NOW, NOW + 900)


@pytest.fixture
def made() -> Made:
    return Made()


def sessions(made: Made, directory: Path) -> Sessions:
    config = Provider(name="iam", issuer="https://iam", client_id="x", at_once=2)
    return Sessions(
        config, RefreshMemory(directory), get_logger(), connect=lambda _: made, clock=lambda: NOW
    )


async def test_all_classes_share_one_chain_that_a_later_agent_finds(
    made: Made, tmp_path: Path
) -> None:
    one = sessions(made, tmp_path)
    async with trio.open_nursery() as nursery:
        for wish in (EOS, Wish("rucio"), Wish(), Wish(scope=("s",))):
            nursery.start_soon(one.token, LOGIN, wish)
    refreshes = [asked for asked in made.asked if asked.startswith("r") and ":" not in asked]
    assert len(refreshes) == len(set(refreshes))
    newest = f"r{len(refreshes)}"
    made.asked.clear()
    await sessions(made, tmp_path).token(LOGIN, Wish())
    assert made.asked == [newest]
    await sessions(made, tmp_path).token(Login(7, 7, refresh=Secret("r90")), Wish())
    assert made.asked[-1] == "r90"  # he logged in anew


async def test_what_is_refused_for_a_new_token_needs_no_login(made: Made, tmp_path: Path) -> None:
    def say(word: str) -> None:
        if word.startswith("a"):
            raise LoginNeeded("not this one")

    made.say = say
    with pytest.raises(Refused, match="look whether the client may exchange"):
        await sessions(made, tmp_path).token(LOGIN, EOS)
    bare = Login(7, 7, access=Token(Secret("a0"), NOW, NOW + 9))
    with pytest.raises(LoginNeeded):
        await sessions(made, tmp_path).token(bare, EOS)
    ended = Login(7, 7, access=Token(Secret("a0"), NOW - 9, NOW - 1))
    with pytest.raises(LoginNeeded, match="there is no refresh token"):
        await sessions(made, tmp_path).token(ended, EOS)


@pytest.mark.loud
async def test_a_provider_that_is_away_is_left_alone_for_a_while(
    made: Made, tmp_path: Path
) -> None:
    def away(_: str) -> None:
        raise Later("busy", 100.0)

    one, made.say = sessions(made, tmp_path), away
    with pytest.raises(Unavailable, match="busy"):
        await one.token(LOGIN, Wish())
    assert 90 < one.pause_s <= 100
    assert not one.open
    with pytest.raises(NotNow, match="busy"):
        await one.token(Login(8, 8, refresh=Secret("r0")), Wish())
    assert made.asked == ["r0"]


async def test_an_answer_that_nobody_waits_for_is_not_lost(made: Made, tmp_path: Path) -> None:
    """The refresh token that it brought is the only one that is good."""
    go, sent = threading.Event(), threading.Event()

    def slow(_: str) -> None:
        sent.set()
        go.wait(10)

    one, made.say = sessions(made, tmp_path), slow
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.token, LOGIN, Wish())
        await trio.to_thread.run_sync(sent.wait, 10)
        nursery.cancel_scope.cancel()
    with pytest.raises(NotNow, match="has not come back"):
        await one.token(LOGIN, Wish())
    made.say = lambda _: None
    go.set()
    with trio.fail_after(10):
        while made.asked != ["r0", "r1"]:
            try:
                await one.token(LOGIN, Wish())
            except NotNow:
                await trio.sleep(0.01)
