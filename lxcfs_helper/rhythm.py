# SPDX-License-Identifier: Apache-2.0
"""When a container is looked at: often while somebody reads, else seldom. Pure.

Times are seconds of one clock that never goes back. Knows no container and no file.
"""

from __future__ import annotations

import math

#: No file is older than this, read or not.
MAX_AGE_S = 5.0

#: Where nobody reads, everything is looked at this often; a busy machine has the rest of
#: `MAX_AGE_S` to do so.
IDLE_S = 4.0

#: Whoever reads is taken to read again within this time, as monitors do every few seconds.
READ_AGAIN_S = 10.0

#: Values that are not older than this are fresh.
_FRESH_S = 0.2

#: The part of an interval after which a look is taken along with another: few sweeps cost less
#: than many small ones.
_TOGETHER = 0.75


class Rhythm:
    """Of one container, for one thread."""

    __slots__ = ("expected", "look_before", "look_from", "looked_at", "read_at")

    def __init__(self) -> None:
        #: When it may and when it must be looked at again, and when it was.
        self.look_from = self.look_before = 0.0
        self.looked_at = -math.inf
        #: When somebody was last seen to read.
        self.read_at = -math.inf
        #: Whether the next read will be told; without being told, it must be taken as read.
        self.expected = False

    def at_once(self) -> None:
        """The next look is to be now."""
        self.look_from = self.look_before = 0.0

    def never(self) -> None:
        """There is nothing to look at."""
        self.look_from = self.look_before = math.inf

    def read(self, now: float, heartbeat_s: float) -> None:
        """Somebody reads: fresh values at once, unless these are."""
        self.read_at, self.expected = now, False
        due = now if now - self.looked_at > _FRESH_S else self.looked_at + heartbeat_s
        self.look_from, self.look_before = min(self.look_from, due), min(self.look_before, due)

    def is_read(self, now: float) -> bool:
        """Whether somebody read lately, and so may read again."""
        return now - self.read_at < READ_AGAIN_S

    def looked(self, now: float, heartbeat_s: float) -> None:
        """It is looked at now; `heartbeat_s` is until the next time, if somebody reads."""
        quiet = self.expected and now - self.read_at >= READ_AGAIN_S
        self._wait(now, IDLE_S if quiet else heartbeat_s)

    def to_expect(self, now: float) -> bool:
        """Whether it is time to have the next read told: of who reads all the time, few are."""
        return not self.expected and now - self.read_at >= READ_AGAIN_S / 2

    def expect(self) -> None:
        """From now on the next read will be told."""
        self.expected = True
        if self.looked_at - self.read_at >= READ_AGAIN_S:
            self._wait(self.looked_at, IDLE_S)

    def _wait(self, now: float, wait_s: float) -> None:
        self.looked_at = now
        self.look_from, self.look_before = now + wait_s * _TOGETHER, now + wait_s
