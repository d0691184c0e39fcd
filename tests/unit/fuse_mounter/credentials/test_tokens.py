# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import json
import pickle

import pytest

from fuse_mounter.credentials import tokens
from fuse_mounter.credentials.tokens import Format, Login, Secret, Token


def jwt(**claims: object) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{body}.sig"


def test_a_secret_does_not_show_itself() -> None:
    token = Token(Secret("hunter2"), 0, 1)
    login = Login(1000, 1000, token, Secret("hunter2"))
    assert "hunter2" not in f"{token!r} {token} {login!r} {Secret('hunter2')!s}"
    with pytest.raises(TypeError, match="not to be pickled"):
        pickle.dumps(token)


def test_what_files_hold() -> None:
    token = Token(Secret("abc"), 0)
    assert tokens.file_content(token, Format.BEARER, None) == "abc"
    eos = tokens.file_content(token, Format.EOS, "https://iam.example.org/userinfo")
    assert eos == "oauth2:abc:iam.example.org/userinfo"
    assert tokens.token_of(eos, Format.EOS) == "abc"
    assert tokens.token_of("abc", Format.BEARER) == "abc"
    for broken in ("", "abc", "oauth2:", "oauth2::x", "oauth2:abc:"):
        assert tokens.token_of(broken, Format.EOS) is None


@pytest.mark.parametrize(
    ("text", "times"),
    [
        (jwt(iat=10, exp=20), (10, 20)),
        (jwt(exp=20.5), (None, 20.5)),
        (jwt(exp="20"), (None, None)),
        (jwt(exp=True), (None, None)),
        (jwt(exp=-1), (None, None)),
        ("opaque", (None, None)),
        ("a.b.c", (None, None)),
        ("a.!!.c", (None, None)),
        ("a.W10.c", (None, None)),
        ("a.\udce9.c", (None, None)),
    ],
)
def test_what_a_token_says_of_its_life(text: str, times: tuple[float | None, float | None]) -> None:
    assert tokens.claimed_times(text) == times


def test_the_life_of_a_token_that_was_handed_over() -> None:
    assert tokens.access_token(jwt(iat=100, exp=400), 200).renew_at() == 300
    assert tokens.access_token("opaque", 200, 500).renew_at() == 400
    assert tokens.access_token("opaque", 200).renew_at() is None
    # From the future, when a clock is wrong: its life begins now.
    assert tokens.access_token(jwt(iat=300, exp=500), 200).obtained == 200
