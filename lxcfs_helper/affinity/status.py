# SPDX-License-Identifier: Apache-2.0
"""How answering stands, for people. Pure values over counts; knows no call."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from lxcfs_helper.affinity.tally import Tally


class Counts(Protocol):
    """Of `affinity.loop`."""

    @property
    def containers(self) -> int: ...
    @property
    def descriptors(self) -> int: ...
    @property
    def waiting(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Standing:
    """`problem` None: nothing is wrong; `answered` are ids of containers; `counts` None: nothing
    is listened to."""

    enabled: bool
    problem: str | None
    answered: frozenset[str]
    counts: Counts | None

    def to_json(self, tally: Tally) -> Mapping[str, Any]:
        """For the status document."""
        counts, last_at = self.counts, tally.last_at
        return {
            "enabled": self.enabled,
            "problem": self.problem,
            "answered": sorted(self.answered),
            "containers": 0 if counts is None else counts.containers,
            "descriptors": 0 if counts is None else counts.descriptors,
            "held": 0 if counts is None else counts.waiting,
            "calls": {
                f"{call.value} {result.value}": number
                for (call, result), number in sorted(
                    tally.calls.items(), key=lambda one: (one[0][0].value, one[0][1].value)
                )
            },
            "held_programs": {outcome.value: n for outcome, n in tally.held.items()},
            "hung": tally.hung,
            "last_answer_seconds": None if last_at is None else time.monotonic() - last_at,
        }
