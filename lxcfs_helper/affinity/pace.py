# SPDX-License-Identifier: Apache-2.0
"""How often calls of one descriptor are taken: who calls all the time shall not have all of the
agent's CPU. Pure.

Programs ask a few times when they start, the JVM some hundred times; those are never slowed down.
"""

from __future__ import annotations

#: So many calls at once, and so many a second for who goes on and on. A call costs the agent 0.03
#: to 0.1 ms.
_BURST, _PER_S = 10_000.0, 4_000.0
#: Who was faster rests for so long.
_REST_S = 0.02


class Pace:
    """Of one descriptor. Times are seconds of one clock that never goes back."""

    __slots__ = ("_at", "_left")

    def __init__(self, now: float) -> None:
        self._left, self._at = _BURST, now

    def rest_s(self, now: float) -> float:
        """One call was taken; for how long none is to be taken now."""
        self._left = min(_BURST, self._left + (now - self._at) * _PER_S) - 1
        self._at = now
        return 0.0 if self._left > 0 else _REST_S
