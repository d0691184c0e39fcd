# SPDX-License-Identifier: Apache-2.0
"""What an agent remembers of a mount: its history and its patience. Everything else it sees anew.

Losing this (a restart) loses counts and back-off, nothing that decides what is mounted.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fuse_mounter.drivers.base import MountBase
from fuse_mounter.publish import Way
from fuse_mounter.states import USABLE, Cause, Judgement, State

_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.25, 30.0
#: A client that served this long was fine: its end does not count against the next one.
_STEADY_S = 10.0
#: So many failures in a row, and the mount is called failed.
_FAILING = 3


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

    def to_json(self) -> dict[str, Any]:
        document = {name: getattr(self, name) for name in self.__slots__}
        return {**document, "state": self.state.value, "recoveries": dict(self.recoveries)}


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
        self.state, self.cause = judgement.state, judgement.cause
        return changed

    def was_published(self, staging: str, way: Way, *, now: float) -> None:
        self.published, self.published_by, self.published_at = staging, way, now

    def failed(self, text: str, *, now: float) -> None:
        """Something could not be done: wait longer every time."""
        self.failures += 1
        self.failure = text
        delay = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2 ** min(self.failures - 1, 10))
        self.not_before = now + delay * random.uniform(0.8, 1.2)  # noqa: S311 -- jitter, not a secret

    def ended(self, staging: str, text: str, *, now: float) -> None:
        """A client ended: the next one starts at once if this one had served for a while."""
        self.failure = text
        served = self.published == staging
        if served and now - self.published_at > _STEADY_S:
            self.failures, self.not_before = 0, 0.0
            return
        self.failed(text, now=now)
        if served and self.failures == 1:
            self.not_before = 0.0

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
        probe_s: float | None,
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
            probe_s=probe_s,
            published_by=self.published_by.value if self.published_by else None,
        )
