# SPDX-License-Identifier: Apache-2.0
"""A breaker for each server: when mount after mount of it fails, all of them wait, and one tries.

Several mounts share one server; without this a server that is away would be asked by all of them
again and again, and be overrun in the moment in which it is back. One that still answers a mount of
ours is not away: then what failed is that other mount's own affair. Pure: times are handed in, and
so is chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

#: So many failures of one server in a row, without an answer in between, and it is waited for.
TRIPS_AT = 3
_FIRST_S, _LONGEST_S = 1.0, 60.0
#: So long those go first who have not tried in this round: one may fail for a reason of its own.
_TURN_S = 0.5


@dataclass(slots=True)
class Breaker:
    """Of one server. `trial`: the mount that tries, until `trial_ends`. `tried`: mounts that had
    their turn in this round.
    """

    failures: int = 0
    open_until: float = -math.inf
    failed_at: float = -math.inf
    trial: str | None = None
    trial_ends: float = 0.0
    tried: set[str] = field(default_factory=set)

    @property
    def tripped(self) -> bool:
        return self.failures >= TRIPS_AT


class Breakers:
    """By the name of the server. `jitter` gives a factor near 1, `trial_s` is the longest trial."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self._breakers: dict[str, Breaker] = {}
        self.trial_s = 30.0

    def failed(self, server: str | None, *, now: float) -> None:
        """A mount of this server could not be made, or its client ended."""
        if server is None:
            return
        one = self._breakers.setdefault(server, Breaker())
        one.failures += 1
        one.failed_at, one.trial = now, None
        if one.tripped:
            pause = min(_LONGEST_S, _FIRST_S * 2 ** min(one.failures - TRIPS_AT, 10))
            one.open_until = now + pause * self._jitter()

    def answered(self, server: str | None, *, at: float) -> None:
        """A mount of this server answered then: if it has not failed since, it is there."""
        one = self._breakers.get(server) if server is not None else None
        if server is not None and one is not None and at > one.failed_at:
            del self._breakers[server]

    def asked_for(self, server: str | None) -> None:
        """An operator wants it tried now."""
        if server is not None and (one := self._breakers.get(server)) is not None:
            one.open_until, one.trial = -math.inf, None

    def holds(self, server: str | None, name: str, *, now: float) -> str | None:
        """Why the mount of this name may not be tried now; None: it may."""
        one = self._breakers.get(server) if server is not None else None
        if one is None or not one.tripped:
            return None
        if now < one.open_until:
            return f"server {server!r} has failed again and again, and is waited for"
        if one.trial not in (None, name) and now < one.trial_ends:
            return f"server {server!r} is being tried by mount {one.trial!r}"
        if name != one.trial and name in one.tried and now < one.open_until + _TURN_S:
            return f"server {server!r} is tried by its other mounts first"
        return None

    def started(self, server: str | None, name: str, *, now: float) -> None:
        """The mount of this name is being tried."""
        one = self._breakers.get(server) if server is not None else None
        if one is not None and one.tripped:
            one.trial, one.trial_ends = name, now + self.trial_s
            one.tried = {name} if name in one.tried else {*one.tried, name}

    def keep_only(self, servers: set[str]) -> None:
        """Forget servers that no mount has any more."""
        for server in self._breakers.keys() - servers:
            del self._breakers[server]

    def next_try(self, *, now: float) -> float:
        """Seconds until a server may be tried again; infinite when none is waited for."""
        times = (one.open_until + turn for one in self._breakers.values() for turn in (0, _TURN_S))
        return min((time - now for time in times if time > now), default=math.inf)

    def tripped(self) -> Mapping[str, int]:
        """Servers that are waited for, or tried, and how often in a row they have failed."""
        return {name: one.failures for name, one in self._breakers.items() if one.tripped}
