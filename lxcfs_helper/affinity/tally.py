# SPDX-License-Identifier: Apache-2.0
"""What was done with calls, counted where it happens and read from other threads. Knows no metric's
name and no call's meaning.
"""

from __future__ import annotations

import enum
import math
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

from lxcfs_helper.affinity.syscalls import Call


class Result(enum.Enum):
    """What became of a call; the values are those of a metric."""

    ANSWERED = "answered"
    #: The kernel's own answer is the truth, or is an error.
    KERNEL = "kernel"
    #: Nobody waited for it any more: killed, or interrupted and asked again.
    GONE = "gone"
    #: Values could not be read, or memory not written to; the kernel answered.
    FAILED = "failed"


class Outcome(enum.Enum):
    """How the wait of a program that was to be started ended; the values are those of a metric."""

    ATTACHED = "attached"
    #: Some views could not be attached, or somebody else took over meanwhile.
    FAILED = "failed"
    #: It took longer than programs are held.
    LATE = "late"
    #: Nothing is to be shown there.
    EXCLUDED = "excluded"
    #: Too many were held at once.
    NO_ROOM = "no room"
    #: Killed while it waited, or interrupted: then it asks again.
    GONE = "gone"


#: Upper bounds in seconds.
CALL_BOUNDS_S = (0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.02, 0.1, 1.0)
HELD_BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Durations:
    """A histogram. One thread at a time adds to it; whoever reads may be one behind."""

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self._bounds_s = tuple(bounds_s)
        self._counts = [0] * (len(bounds_s) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds_s, seconds)] += 1
        self.sum_s += seconds

    def cumulated(self) -> list[tuple[float, int]]:
        """How many lasted no longer than each bound; the last bound is infinite."""
        counts, total = [*self._counts], 0
        found = []
        for bound, count in zip((*self._bounds_s, math.inf), counts, strict=True):
            total += count
            found.append((bound, total))
        return found


class Tally:
    """All counts of one agent."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[Call, Result]] = Counter()
        self.held: Counter[Outcome] = Counter()
        self.call_durations = Durations(CALL_BOUNDS_S)
        self.held_durations = Durations(HELD_BOUNDS_S)
        #: When a call was last dealt with, by the clock of `time.monotonic`; None: never.
        self.last_at: float | None = None
        #: How often a thread that hung in the memory of a caller was replaced.
        self.hung = 0

    def call(self, call: Call, result: Result, started: float) -> None:
        """One call that was taken at `started`, by the clock of `time.monotonic`."""
        now = time.monotonic()
        self.calls[call, result] += 1
        self.call_durations.add(now - started)
        self.last_at = now

    def let_go(self, outcome: Outcome, since: float) -> None:
        """One program that was held since then."""
        now = time.monotonic()
        self.held[outcome] += 1
        self.held_durations.add(now - since)
        self.last_at = now
