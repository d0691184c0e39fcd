# SPDX-License-Identifier: Apache-2.0
"""Programs that wait to be started, for a while at most. Knows no view and no epoll: whoever
listens says who calls, and who may go.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from agents import seccomp_notify as kernel
from agents.seccomp_notify import Notification
from agents.seccomp_slots import Slots
from lxcfs_helper.affinity.attended import Held, Listening
from lxcfs_helper.affinity.tally import Outcome, Tally


class Holding:
    """For one thread at a time, but for `number`. `limit_s` says for how long at most."""

    def __init__(self, slots: Slots, tally: Tally, limit_s: Callable[[], float]) -> None:
        self._slots, self._tally, self._limit_s = slots, tally, limit_s
        self._listening: dict[int, Listening] = {}

    def __bool__(self) -> bool:
        return bool(self._listening)

    @property
    def number(self) -> int:
        """How many wait."""
        return sum(len(one.held) for one in [*self._listening.values()])

    def keep(self, listening: Listening, asked: Notification, slot: int, now: float) -> None:
        """Have this caller wait."""
        # Without a pid, callers cannot be told apart, and none may be taken for another.
        caller = asked.pid or -asked.id
        before = listening.held.get(caller)
        if before is not None:  # interrupted by a signal, it asks again
            self._slots.release(before.slot)
            now = before.since
        listening.held[caller] = Held(slot, asked.id, now)
        self._listening[listening.arrival.descriptor] = listening

    def let_go(self, listening: Listening, outcome: Outcome) -> None:
        """Start what waits there."""
        self._listening.pop(listening.arrival.descriptor, None)
        while listening.held:
            _, held = listening.held.popitem()
            gone = not kernel.proceed(listening.arrival.descriptor, held.id)
            self._slots.release(held.slot)
            self._tally.let_go(Outcome.GONE if gone else outcome, held.since)

    def let_late_go(self) -> None:
        """Who has waited for long enough: what is there then is what there is."""
        limit = time.monotonic() - self._limit_s()
        for listening in [*self._listening.values()]:
            if any(held.since <= limit for held in listening.held.values()):
                self.let_go(listening, Outcome.LATE)
                listening.passing = True

    def make_room(self) -> None:
        """All slots are in use: those who wait longest go."""
        oldest = min(
            self._listening.values(),
            key=lambda one: min(held.since for held in one.held.values()),
            default=None,
        )
        if oldest is not None:
            self.let_go(oldest, Outcome.NO_ROOM)
