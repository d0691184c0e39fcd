# SPDX-License-Identifier: Apache-2.0
"""What an agent remembers of a mount: its history and its patience. Everything else it sees anew.

Losing this (a restart) loses counts and back-off, nothing that decides what is mounted.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fuse_mounter.drivers.base import MountBase, Sign
from fuse_mounter.probe import Past, Probe, Space
from fuse_mounter.publication import SharedStatus
from fuse_mounter.publish import Way
from fuse_mounter.states import USABLE, Cause, Judgement, State

_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.25, 30.0
#: A client that served this long was fine: its end does not count against the next one.
_STEADY_S = 10.0
#: So many failures in a row, and the mount is called failed.
_FAILING = 3
#: So many of its last changes are told.
_CHANGES = 10


@dataclass(frozen=True, slots=True)
class Change:
    """It came into a state `at` (seconds since the epoch). `cause`: the last one that was known."""

    at: float
    state: State
    cause: str


@dataclass(frozen=True, slots=True)
class MountStatus:
    """One mount in the published status. Times are seconds since the epoch."""

    name: str
    driver: str
    path: str
    source: str
    state: State
    cause: str
    since: float
    client_pid: int | None
    recoveries: Mapping[str, int]
    last_gap_s: float | None
    layers: int
    waiting: int | None
    probe_s: float | None
    published_by: str | None
    #: What its client or the kernel tells of it.
    sign: Sign | None = None
    #: Whose trouble it shares with other mounts; None: nobody's.
    server: str | None = None
    #: When a probe was answered well for the last time, and what it said; None: not yet.
    last_ok: float | None = None
    space: Space | None = None
    #: Hung connections that were broken, and how many requests got an error by that.
    aborts: int = 0
    aborted_requests: int = 0
    #: How often something that its driver needs was found missing.
    preflight_failures: int = 0
    #: How often it came into each state.
    transitions: Mapping[str, int] = field(default_factory=dict)
    #: It is away because somebody asked for that.
    drained: bool = False
    #: Where else it is published.
    shared: tuple[SharedStatus, ...] = ()
    #: The last changes, oldest first, and the last probes of what serves it now.
    history: tuple[Change, ...] = ()
    probes: tuple[Past, ...] = ()
    #: The private directory where that is mounted as well.
    staging: str | None = None

    def to_json(self) -> dict[str, Any]:
        document = {name: getattr(self, name) for name in self.__slots__}
        return {
            **document,
            "state": self.state.value,
            "recoveries": dict(self.recoveries),
            "transitions": dict(self.transitions),
            "sign": asdict(self.sign) if self.sign else None,
            "space": asdict(self.space) if self.space else None,
            "shared": [asdict(one) for one in self.shared],
            "history": [{**asdict(one), "state": one.state.value} for one in self.history],
            "probes": [{**asdict(one), "health": one.health.value} for one in self.probes],
        }


@dataclass(slots=True)
class Record:
    """Of one mount. `since` is wall-clock time, everything else trio's clock."""

    state: State = State.ABSENT
    cause: str = ""
    since: float = 0.0
    recoveries: Counter[Cause] = field(default_factory=Counter)
    last_gap_s: float | None = None
    published_by: Way | None = None
    published: str | None = None
    published_at: float = 0.0
    aborts: int = 0
    aborted_requests: int = 0
    preflight_failures: int = 0
    transitions: Counter[State] = field(default_factory=Counter)
    history: deque[Change] = field(default_factory=lambda: deque(maxlen=_CHANGES))
    problem: str | None = None
    failures: int = 0
    failure: str = ""
    not_before: float = 0.0
    _lost_at: float | None = None
    _lost_by: Cause = Cause.CLIENT_ENDED

    @property
    def failing(self) -> str | None:
        """Why it does not start; None while it may still be chance."""
        return self.failure if self.failures >= _FAILING else None

    def judged(self, judgement: Judgement, *, now: float, wall: float) -> bool:
        """Take over a judgement; True when the state or its cause changed."""
        usable, was_usable = judgement.state in USABLE, self.state in USABLE
        if was_usable and not usable:
            self._lost_at = now
            self._lost_by = judgement.recovery or Cause.CLIENT_ENDED
        elif usable and self._lost_at is not None:
            self.last_gap_s = now - self._lost_at
            self.recoveries[self._lost_by] += 1
            self._lost_at = None
        changed = (judgement.state, judgement.cause) != (self.state, self.cause)
        if judgement.state is not self.state:
            self.since = wall
            self.transitions[judgement.state] += 1
        self.state, self.cause = judgement.state, judgement.cause
        self._note(wall)
        return changed

    def _note(self, wall: float) -> None:
        """Another reason for the same state is no change, but the last word of it."""
        last = self.history[-1] if self.history else None
        if last is not None and last.state is self.state:
            self.history[-1] = Change(last.at, self.state, self.cause)
        else:
            self.history.append(Change(wall, self.state, self.cause))

    def was_published(self, staging: str, way: Way, *, now: float) -> None:
        self.published, self.published_by, self.published_at = staging, way, now

    def was_adopted(self, staging: str, *, now: float) -> None:
        """An agent before this one had published it."""
        self.was_published(staging, Way.ADOPTED, now=now)

    def was_aborted(self, callers: int) -> None:
        self.aborts += 1
        self.aborted_requests += callers

    def preflight(self, problem: str | None) -> None:
        """What its driver found missing; counted when that changes."""
        if problem is not None and problem != self.problem:
            self.preflight_failures += 1
        self.problem = problem

    def asked_for(self) -> None:
        """An operator wants it tried now, whatever was before."""
        self.failures, self.not_before = 0, 0.0

    def failed(self, text: str, *, now: float) -> None:
        """Something could not be done: wait longer every time."""
        self.failures += 1
        self.failure = text
        delay = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2 ** min(self.failures - 1, 10))
        self.not_before = now + delay * random.uniform(0.8, 1.2)  # noqa: S311 -- jitter, not a secret

    def ended(self, staging: str, text: str, *, now: float) -> bool:
        """A client ended: the next one starts at once if this one had served for a while. False: it
        has never served, so its server may be to blame.
        """
        self.failure = text
        served = self.published == staging
        if served and now - self.published_at > _STEADY_S:
            self.failures, self.not_before = 0, 0.0
            return True
        self.failed(text, now=now)
        if served and self.failures == 1:
            self.not_before = 0.0
        return served

    def steady(self, *, now: float) -> None:
        """It has served for long enough: earlier failures are history."""
        if self.failures and self.published and now - self.published_at > _STEADY_S:
            self.failures, self.not_before = 0, 0.0

    def status(
        self,
        mount: MountBase,
        *,
        client_pid: int | None,
        layers: int,
        waiting: int | None,
        probe: Probe | None,
        sign: Sign | None = None,
        server: str | None = None,
        drained: bool = False,
    ) -> MountStatus:
        return MountStatus(
            name=mount.name,
            driver=mount.driver,
            path=mount.path,
            source=str(getattr(mount, "source", "")),
            state=self.state,
            cause=self.cause,
            since=self.since,
            client_pid=client_pid,
            recoveries={cause.value: count for cause, count in self.recoveries.items()},
            last_gap_s=self.last_gap_s,
            layers=layers,
            waiting=waiting,
            probe_s=probe.seconds if probe else None,
            published_by=self.published_by.value if self.published_by else None,
            sign=sign,
            server=server,
            drained=drained,
            last_ok=probe.good_at if probe else None,
            space=probe.space if probe else None,
            aborts=self.aborts,
            aborted_requests=self.aborted_requests,
            preflight_failures=self.preflight_failures,
            history=tuple(self.history),
            transitions={state.value: count for state, count in self.transitions.items()},
        )
