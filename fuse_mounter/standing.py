# SPDX-License-Identifier: Apache-2.0
"""How all mounts of the node stand: what is published for people and metrics. Values alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fuse_mounter.record import MountStatus
from fuse_mounter.request_timeout import RequestTimeout
from fuse_mounter.states import State


@dataclass(frozen=True, slots=True)
class Transition:
    """A mount went from one state to another. `cause` in words, empty when there is none."""

    name: str
    before: State
    after: State
    cause: str


@dataclass(frozen=True, slots=True)
class Restarts:
    """Mounts that begin in this moment, those that wait for their turn, and how many may begin at
    once.
    """

    under_way: int = 0
    waiting: int = 0
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """`mounts` in the order of the configuration. `leaving`: what is not configured any more, and
    not gone yet. `breakers`: servers that are waited for, and how often in a row they have failed.
    """

    mounts: tuple[MountStatus, ...] = ()
    leaving: tuple[MountStatus, ...] = ()
    restarts: Restarts = field(default_factory=Restarts)
    breakers: Mapping[str, int] = field(default_factory=dict)
    request_timeout: RequestTimeout = field(default_factory=RequestTimeout)

    def to_json(self) -> dict[str, Any]:
        return {
            "mounts": [one.to_json() for one in (*self.mounts, *self.leaving)],
            "breakers": dict(self.breakers),
            "request_timeout": asdict(self.request_timeout),
            "restarts": {
                "under_way": self.restarts.under_way,
                "waiting": self.restarts.waiting,
                "limit": self.restarts.limit,
            },
        }
