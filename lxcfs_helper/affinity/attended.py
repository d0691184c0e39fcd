# SPDX-License-Identifier: Apache-2.0
"""What the answering thread knows of each descriptor and of each container behind them. Values
only; decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from agents.seccomp_connection import Arrival
from lxcfs_helper.affinity.pace import Pace
from lxcfs_helper.affinity.values import Terms


@dataclass(slots=True)
class Held:
    """A program that waits to be started: where its notification is, its id, and since when it
    waits. A thread whose wait is interrupted calls again, and goes on waiting."""

    slot: int
    id: int
    since: float


@dataclass(slots=True, eq=False)
class Attended:
    """One container. `terms` None: none of its calls is answered. `barred_until`: its memory is
    left alone, because a write to it hung. `writing`: threads of ours that are at its memory; two
    are, where one hangs."""

    id: str
    terms: Terms | None = None
    descriptors: set[int] = field(default_factory=set)
    barred_until: float = 0.0
    writing: set[int] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class Listening:
    """One descriptor. `passing`: programs that it tells of are started at once. `held` by thread.

    `writing`: a thread of ours is at its caller's memory, and closes it if it was `dropped` since.
    """

    arrival: Arrival
    container: Attended
    pace: Pace
    passing: bool = False
    held: dict[int, Held] = field(default_factory=dict)
    writing: bool = False
    dropped: bool = False
