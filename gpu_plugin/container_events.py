# SPDX-License-Identifier: Apache-2.0
"""What happened to a container's GPU memory, in its own words: lines with time and reason, the last
fifty of them. Pure; knows no file, and of nobody but the container.

The lines are the state: after a restart of the agent they are read back (`parse`). Times are
seconds of the epoch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from agents.tables import size
from gpu_plugin.verdicts import Act, Action, Outcome, Reason

#: So many are kept of one container.
KEPT = 50
#: Longer texts (an annotation may have 256 KiB) are cut.
_LONGEST_TEXT = 300
_LINE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) ([a-z_]+): (.*)")


@dataclass(frozen=True, slots=True)
class Event:
    """`at` in whole seconds of the epoch; `reason` is one word, `text` one line."""

    at: int
    reason: str
    text: str

    @property
    def line(self) -> str:
        return f"{time_text(self.at)} {self.reason}: {self.text}"


def event(at: float, reason: str, text: str) -> Event:
    """From texts of whatever origin."""
    return Event(int(at), reason, safe(text))


def safe(text: str, longest: int = _LONGEST_TEXT) -> str:
    """One line that does nothing to a terminal: names, annotations and programs are the user's."""
    if len(text) <= longest and text.isprintable():
        return text
    shown = "".join(c if c.isprintable() else "?" for c in text[: longest + 1])
    return shown if len(shown) <= longest else f"{shown[: longest - 3]}..."


def time_text(at: float) -> str:
    """As in `2026-01-02T03:04:05Z`; `at` in seconds of the epoch."""
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def text_of(events: Iterable[Event]) -> str:
    """The file `events`: the newest line is the last."""
    return "".join(f"{one.line}\n" for one in events)


def parse(text: str) -> tuple[Event, ...]:
    """What `text_of` wrote. What is no such line is passed over."""
    found = []
    for line in text.split("\n"):
        if match := _LINE.fullmatch(line):
            with suppress(ValueError):  # a month 13
                written = datetime.strptime(match[1], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
                found.append(event(written.timestamp(), match[2], match[3]))
    return tuple(found[-KEPT:])


def added(events: tuple[Event, ...], new: Iterable[Event]) -> tuple[Event, ...]:
    """With the new ones at the end, as many as are kept."""
    return (*events, *new)[-KEPT:]


def merged(ours: tuple[Event, ...], theirs: tuple[Event, ...]) -> tuple[Event, ...]:
    """Of two agents that told the same container, in the order of time."""
    both = dict.fromkeys((*theirs, *ours))
    return tuple(sorted(both, key=lambda one: one.at))[-KEPT:]


def of_act(act: Act, device: str, pid: int | None) -> Event | None:
    """What the container is told of an act; None: nothing, because nothing came of it. `device` is
    its name for people, `pid` that of the process as the container numbers it (None: not known).
    """
    if act.outcome not in (Outcome.DONE, Outcome.OBSERVED):
        return None
    words = _words(act, _program(act, pid))
    if act.outcome is Outcome.OBSERVED:
        words = f"(only watched, nothing is done) {words}"
    return event(act.wall, act.reason.value, f"{device}: {words}; {_why(act)}")


def _program(act: Act, pid: int | None) -> str:
    name = safe(act.command, 40) or "a process"
    number = "" if pid is None else f" (pid {pid})"
    held = "" if act.held is None else f", which held {size(act.held)}"
    return f"{name}{number}{held}"


def _words(act: Act, program: str) -> str:
    match act.action:
        case Action.WARN:
            return f"processes will be ended in {act.grace_s:g} s unless memory is freed"
        case Action.TERMINATE:
            return f"asked {program}, to end (SIGTERM)"
        case Action.KILL:
            return f"ended {program} (SIGKILL)"
        case Action.SPARE:
            return "enough memory was freed, nothing more is ended"


def _why(act: Act) -> str:
    used = f"{size(act.used)} used by this container"
    match act.reason:
        case Reason.OVER_LIMIT:
            return f"{used}, limit {size(act.allowed)}"
        case Reason.PRESSURE:
            return f"{used}, its share is {size(act.allowed)} and others need what they were given"
        case Reason.UNINVITED:
            return f"{used}, which was given none of this device"
