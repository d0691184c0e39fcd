# SPDX-License-Identifier: Apache-2.0
"""Whether a server's port takes connections, without ever waiting for that: the last answer is
told, and another one is asked for in the background. Knows no protocol: a connection is made, and
closed.
"""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass

#: For this long an answer is good.
_GOOD_S = 30.0
#: A server that cannot be reached is asked more often: its mount waits for it.
_BAD_S = 3.0
_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True)
class _Answer:
    problem: str | None
    at: float


class Reach:
    """Of any number of servers. For any thread."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, int], _Answer] = {}
        self._asking: set[tuple[str, int]] = set()

    def problem(self, host: str, port: int) -> str | None:
        """Why it could not be reached a moment ago; None: it could, or nothing is known yet."""
        place = (host, port)
        last = self._answers.get(place)
        age_s = time.monotonic() - last.at if last else _GOOD_S
        if age_s >= (_BAD_S if last and last.problem else _GOOD_S) and place not in self._asking:
            self._asking.add(place)
            # A daemon: looking up a name may take longer than this process lives.
            threading.Thread(target=self._ask, args=place, daemon=True).start()
        return last.problem if last else None

    def _ask(self, host: str, port: int) -> None:
        problem = None
        try:
            socket.create_connection((host, port), _LIMIT_S).close()
        except OSError as error:
            problem = error.strerror or str(error)
        self._answers[host, port] = _Answer(problem, time.monotonic())
        self._asking.discard((host, port))
