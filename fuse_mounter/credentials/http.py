# SPDX-License-Identifier: Apache-2.0
"""Requests to one server, each with an end: in time, and in how much is read. requests carries
them; it is loaded at the first one. Knows nothing of what is said.

Blocks: worker threads only. An error never holds what was sent or answered.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agents.errors import Unavailable

if TYPE_CHECKING:
    import requests

_CONNECT_S = 3.0
_LARGEST = 16 << 20
_PIECE = 1 << 16
_LONGEST_PAUSE_S = 3600.0


class Later(Unavailable):
    """The server asks to be left alone for `after_s` seconds."""

    def __init__(self, message: str, after_s: float) -> None:
        super().__init__(message)
        self.after_s = after_s


@dataclass(frozen=True, slots=True)
class Answer:
    """`body` as it came, decoded from what HTTP packs it in."""

    status: int
    body: bytes


class Http:
    """A connection that is kept. `what` is who is asked, for people, and `remedy` what to do when
    he does not answer. For one thread at a time.
    """

    def __init__(self, what: str, *, ca_file: Path | None, timeout_s: float, remedy: str) -> None:
        self._what, self._remedy = what, remedy
        self._ca_file, self._timeout_s = ca_file, timeout_s
        self._session: requests.Session | None = None

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: str | None = None,
        user: tuple[str, str] | None = None,
    ) -> Answer:
        """Raises Unavailable, also for 429 and every answer that blames the server (5xx)."""
        import requests

        if self._session is None:
            self._session = requests.Session()
            self._session.trust_env = False  # neither a proxy nor a .netrc of somebody else
        try:
            with self._session.request(
                method,
                url,
                data=body,
                headers=headers,
                auth=user,
                timeout=(_CONNECT_S, self._timeout_s),
                verify=str(self._ca_file) if self._ca_file else True,
                allow_redirects=False,  # what we say is for this server alone
                stream=True,
            ) as answer:
                self._blamed(answer)
                return Answer(answer.status_code, self._read(answer))
        except requests.exceptions.SSLError:
            raise Unavailable(
                f"{self._what} has a certificate that is not accepted",
                remedy="look at its host name and its end, and name its authority in ca_file",
            ) from None
        except OSError as error:  # those of requests too; their text may hold what was sent
            raise Unavailable(
                f"{self._what} does not answer: {type(error).__name__}", remedy=self._remedy
            ) from None

    def _read(self, answer: requests.Response) -> bytes:
        """The limit of requests holds for each piece, and this one for all of them."""
        ends = time.monotonic() + self._timeout_s
        body = bytearray()
        for piece in answer.iter_content(_PIECE):
            body += piece
            if len(body) > _LARGEST:
                raise Unavailable(f"{self._what} answers more than {_LARGEST >> 20} MiB")
            if time.monotonic() > ends:
                raise Unavailable(f"{self._what} did not answer within {self._timeout_s:g} s")
        return bytes(body)

    def _blamed(self, answer: requests.Response) -> None:
        said = f"{self._what} answered {answer.status_code}"
        pause = answer.headers.get("Retry-After", "")
        if answer.status_code in (429, 503) and pause.isascii() and pause.isdigit():
            raise Later(said, min(float(pause), _LONGEST_PAUSE_S))
        if answer.status_code == 429 or answer.status_code >= 500:
            raise Unavailable(said, remedy="look at its log")
