# SPDX-License-Identifier: Apache-2.0
"""What a measurement is: figures, the peer's beside them, and the goal that they are held to.

Values and arithmetic only. A goal that is not met is said, and is no error: what a figure is worth
depends on the machine and on what else runs there.
"""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.hostfs import HostFs
from agents.tables import UNKNOWN


class NotHere(Exception):
    """This machine lacks what a subject needs (its text says what, and how to get it)."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number, and all repetitions that it was made of, in the same unit."""

    value: float
    unit: str
    repetitions: tuple[float, ...]

    def __str__(self) -> str:
        return f"{short(self.value)} {self.unit}".rstrip()


def median(values: Sequence[float], unit: str) -> Figure:
    """The figure for all repetitions of one thing."""
    return Figure(statistics.median(values), unit, tuple(values))


def quantile(values: Sequence[float], share: float, unit: str) -> Figure:
    """The value that this share of the repetitions does not exceed."""
    rank = max(1, math.ceil(share * len(values)))
    return Figure(sorted(values)[rank - 1], unit, tuple(values))


def once(value: float, unit: str) -> Figure:
    """Something that is there to be read, such as memory."""
    return Figure(value, unit, (value,))


class Of(enum.Enum):
    """What a goal is about."""

    OURS = "ours"
    RATIO = "ratio"


@dataclass(frozen=True, slots=True)
class Goal:
    """Bounds, both inclusive. `text` is what is shown."""

    text: str
    of: Of
    most: float = math.inf
    least: float = -math.inf


def at_most(bound: float, unit: str) -> Goal:
    """Our figure, in its own unit."""
    return Goal(f"≤ {short(bound)} {unit}", Of.OURS, most=bound)


def times_the_peer(bound: float) -> Goal:
    """Ours divided by the peer's, where more is better."""
    return Goal(f"≥ {short(bound)} x peer", Of.RATIO, least=bound)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `ours` None: it could not be measured, and `note` says why.

    `peer_name` names who else was measured, or what the figure is compared with.
    """

    what: str
    ours: Figure | None
    peer_name: str = ""
    peer: Figure | None = None
    goal: Goal | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours divided by the peer's."""
        if self.ours is None or self.peer is None or not self.peer.value:
            return None
        return self.ours.value / self.peer.value

    @property
    def met(self) -> bool | None:
        """None: there is no goal, or nothing to hold to it."""
        if self.goal is None or self.ours is None:
            return None
        value = self.ours.value if self.goal.of is Of.OURS else self.ratio
        return None if value is None else self.goal.least <= value <= self.goal.most

    def cells(self) -> tuple[str, ...]:
        """For the table, in the order of `COLUMNS`."""
        peer = f"{self.peer} ({self.peer_name})" if self.peer else UNKNOWN
        return (
            self.what,
            str(self.ours) if self.ours else "not measured",
            peer,
            UNKNOWN if self.ratio is None else short(self.ratio),
            self.goal.text if self.goal else UNKNOWN,
            {None: UNKNOWN, True: "met", False: "NOT MET"}[self.met],
            self.note,
        )

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "what": self.what,
            "ours": _document(self.ours),
            "peer_name": self.peer_name,
            "peer": _document(self.peer),
            "ratio": self.ratio,
            "goal": self.goal.text if self.goal else None,
            "met": self.met,
            "note": self.note,
        }


COLUMNS = ("measured", "ours", "peer", "ratio", "goal", "", "note")


def _document(figure: Figure | None) -> dict[str, Any] | None:
    if figure is None:
        return None
    repetitions = [float(f"{value:.6g}") for value in figure.repetitions]
    return {"value": figure.value, "unit": figure.unit, "repetitions": repetitions}


def short(value: float) -> str:
    """Three digits that count, and no exponent."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(digits, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True, slots=True)
class Context:
    """What a subject gets: a directory of its own, and how long it may take."""

    directory: Path
    quick: bool
    host: HostFs = field(default_factory=HostFs)

    def pick(self, full: int, quick: int) -> int:
        """How often, for this run."""
        return quick if self.quick else full
