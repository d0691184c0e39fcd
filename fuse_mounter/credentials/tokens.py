# SPDX-License-Identifier: Apache-2.0
"""Tokens as values, and what becomes of one: its text in a file, its end, when it is renewed. Pure.

A token never shows itself: not in `repr`, not in a log line, not in a traceback.
"""

from __future__ import annotations

import base64
import binascii
import enum
import json
from dataclasses import dataclass, field

#: Renewed when so much of its life is over.
RENEW_AT = 2 / 3


class Secret:
    """Text that does not show itself. `reveal` is for whoever writes it where it belongs."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a secret is not to be pickled")


class Format(enum.Enum):
    """How a file holds a token. `eos`: `oauth2:<token>:<userinfo endpoint>`, as eosxd hands it to
    the MGM. `bearer`: the bare token (WLCG Bearer Token Discovery).
    """

    EOS = "eos"
    BEARER = "bearer"


@dataclass(frozen=True, slots=True)
class Token:
    """An access token. `obtained` and `expires` are seconds of the epoch; `expires` None: it does
    not say.
    """

    text: Secret
    obtained: float
    expires: float | None = None

    def renew_at(self) -> float | None:
        """When two thirds of its life are over; None: nobody knows when it ends."""
        if self.expires is None:
            return None
        return self.obtained + RENEW_AT * max(0.0, self.expires - self.obtained)

    def valid(self, now: float) -> bool:
        return self.expires is None or now < self.expires


@dataclass(frozen=True, slots=True)
class Login:
    """What a source knows of one user: who he is on this node, and what he logged in with."""

    uid: int
    gid: int
    access: Token | None = None
    refresh: Secret | None = None
    #: For people: never a label, unless switched on.
    name: str = field(default="", compare=False)


def file_content(token: Token, form: Format, endpoint: str | None) -> str:
    """Without a newline at the end: eosxd takes all of it. Raises ValueError when this format
    cannot hold such a token.
    """
    if form is Format.BEARER:
        return token.text.reveal()
    if ":" in token.text.reveal():
        raise ValueError("a token with a colon cannot be in a file of format eos")
    return f"oauth2:{token.text.reveal()}:{(endpoint or '').removeprefix('https://')}"


def token_of(content: str, form: Format) -> str | None:
    """The token in what `file_content` made; None: it was not made by it."""
    if form is Format.BEARER:
        return content or None
    kind, _, rest = content.partition(":")
    token, _, endpoint = rest.partition(":")
    return token if kind == "oauth2" and token and endpoint else None


def claimed_times(text: str) -> tuple[float | None, float | None]:
    """When a JWT says that it was issued and that it ends (`iat`, `exp`, RFC 7519); None: it does
    not, or it is no JWT. It is not verified: that is the business of whoever is shown it.
    """
    parts = text.split(".")
    if len(parts) != 3:
        return None, None
    try:
        padded = parts[1] + "=" * (-len(parts[1]) % 4)
        claims = json.loads(base64.urlsafe_b64decode(padded))
    except (ValueError, binascii.Error):
        return None, None
    if not isinstance(claims, dict):
        return None, None
    return a_time(claims.get("iat")), a_time(claims.get("exp"))


def a_time(value: object) -> float | None:
    """Seconds of the epoch; None: it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value < 1e12 else None


def access_token(
    text: str, now: float, expires: float | None = None, *, obtained: float | None = None
) -> Token:
    """A token that was handed over at `now`; `expires` None: as it says itself. Its life began when
    it says so, unless `obtained` does.
    """
    issued, ends = claimed_times(text)
    if obtained is None:
        obtained = min(now, issued) if issued is not None else now
    return Token(Secret(text), obtained, ends if expires is None else expires)


def is_one_word(text: str) -> bool:
    """What a header, and a file of one line, may hold: visible ASCII alone."""
    return bool(text) and all(33 <= ord(letter) <= 126 for letter in text)
