# SPDX-License-Identifier: Apache-2.0
"""What an agent shows a person on the node page, as values: panels of items with a state, a bar,
facts, and what happened last. A package fills them from its status document; the page draws them.

Pure; knows no agent, and nothing of HTML. Every text may hold whatever people call their things.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from agents.tables import Table


class Tone(enum.Enum):
    """How a state is meant. Whoever sees no colours reads the state itself."""

    GOOD = "good"
    NOTICE = "notice"  # not as it should be, and it may pass by itself
    BAD = "bad"
    PLAIN = "plain"  # neither: it is so, or it is not known


class Fill(enum.Enum):
    """What a part of a bar stands for."""

    USED = "used"
    OVER = "over"  # used, and more than there may be
    KEPT = "kept"  # somebody's, and not used
    OTHER = "other"  # used, and by nobody who was given it
    FREE = "free"
    RESERVED = "reserved"  # never to be had
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a bar; `amount` in the unit of its whole."""

    fill: Fill
    amount: float


@dataclass(frozen=True, slots=True)
class Bar:
    """How `whole` is made up, from its beginning; what the parts leave is free too. `marks` are
    amounts at which a line is drawn (a request, a limit). `text` says the same in words.
    """

    whole: float
    parts: Sequence[Part]
    text: str
    marks: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """`at` in seconds of the epoch."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Item:
    """One thing. `facts` are what and its value, in words; `events` come newest first; `items` are
    what belongs to it. Its name is its own among those that it stands with.
    """

    name: str
    state: str = ""
    tone: Tone = Tone.PLAIN
    facts: Sequence[tuple[str, str]] = ()
    bar: Bar | None = None
    events: Sequence[Event] = ()
    items: Sequence[Item] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """Things of a kind. `problems` are for somebody to look at, `notes` are not; `legend` says what
    parts of its bars mean.
    """

    title: str
    items: Sequence[Item] = ()
    tables: Sequence[Table] = ()
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()
    legend: Sequence[tuple[Fill, str]] = ()


def of_tables(tables: Sequence[Table]) -> Sequence[Panel]:
    """For an agent that has nothing but tables."""
    return [Panel(table.title, tables=(table,)) for table in tables]
