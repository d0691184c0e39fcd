# SPDX-License-Identifier: Apache-2.0
"""Whom to leave alone for a while: containers in whose mount namespace work was not done in time.
Knows no mount.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from agents.errors import Unavailable

#: For so long nothing is tried there; twice as long after each further time, up to the second.
_PAUSE_S, _LONGEST_PAUSE_S = 30.0, 600.0


@dataclass(frozen=True, slots=True)
class _Pause:
    """Until when, how long that is in all, and why."""

    until: float
    length_s: float
    reason: str


class Pauses:
    """`clock` in seconds. For several threads, one a container."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pauses: dict[str, _Pause] = {}

    def refuse(self, container_id: str) -> None:
        """Raises Unavailable while it is to be left alone."""
        pause = self._pauses.get(container_id)
        if pause is not None and self._clock() < pause.until:
            raise Unavailable(pause.reason)

    def begin(self, container_id: str, reason: str) -> None:
        """Leave it alone from now on."""
        last = self._pauses.get(container_id)
        length_s = _PAUSE_S if last is None else min(_LONGEST_PAUSE_S, 2 * last.length_s)
        self._pauses[container_id] = _Pause(self._clock() + length_s, length_s, reason)

    def end(self, container_id: str) -> None:
        """All is well there."""
        self._pauses.pop(container_id, None)

    def keep(self, container_ids: Collection[str]) -> None:
        """Forget all others."""
        for container_id in {*self._pauses} - set(container_ids):
            self._pauses.pop(container_id, None)
