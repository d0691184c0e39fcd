# SPDX-License-Identifier: Apache-2.0
"""What the kubelet noticed about plugins: a bounded log, so that a plugin is shown for what it is.

A real kubelet writes most of this to its own log only; the plugin is told nothing. Decides nothing.
"""

from __future__ import annotations

import enum
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class EventKind(enum.Enum):
    """What happened, by name."""

    REGISTERED = "registered"
    REGISTRATION_REFUSED = "registration refused"
    REPLACED = "replaced by a second registration"
    LISTED = "listed its devices"
    LIST_TOO_LARGE = "sent a list over the size limit"
    LIST_ODD = "sent a list with repeated or strange devices"
    STREAM_ENDED = "ended its stream"
    FORGOTTEN = "did not come back"
    SLOW_CALL = "lets a call wait"
    ANSWER_REPAIRED = "gave an answer that was completed or cut"
    CALL_FAILED = "answered a call with an error"
    ANSWER_IGNORED = "gave an answer of which a part does not count"
    CHECKPOINT_UNREADABLE = "checkpoint could not be read"
    CHECKPOINT_UNWRITABLE = "checkpoint could not be written"


@dataclass(frozen=True, slots=True)
class Event:
    """`resource` is empty when it concerns none; `at` is seconds since the epoch."""

    kind: EventKind
    resource: str
    text: str
    at: float


class EventLog:
    """The last events. Thread-safe; `changed` is notified at each, so that one can wait for it."""

    def __init__(self, changed: threading.Condition, *, keep: int = 1000) -> None:
        self._changed = changed
        self._events: deque[Event] = deque(maxlen=keep)

    def add(self, kind: EventKind, resource: str, text: str) -> None:
        with self._changed:
            self._events.append(Event(kind, resource, text, time.time()))
            self._changed.notify_all()

    def all(self) -> tuple[Event, ...]:
        with self._changed:
            return tuple(self._events)

    def of(self, kind: EventKind, resource: str | None = None) -> tuple[Event, ...]:
        """Those of one kind, and of one resource if it is given."""
        return tuple(
            event
            for event in self.all()
            if event.kind is kind and resource in (None, event.resource)
        )


class OpenCalls:
    """The calls to plugins that are out, so that one which hangs can be named while it hangs."""

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._lock = threading.Lock()
        self._open: dict[int, tuple[str, str, float]] = {}
        self._next = 0

    @contextmanager
    def track(self, call: str, resource: str) -> Iterator[None]:
        with self._lock:
            self._next += 1
            number = self._next
            self._open[number] = (call, resource, time.monotonic())
        try:
            yield
        finally:
            with self._lock:
                self._open.pop(number, None)

    def report_slow(self, limit_s: float) -> None:
        """Note each call that has been out for longer than the limit, once."""
        now = time.monotonic()
        with self._lock:
            slow = {n: c for n, c in self._open.items() if now - c[2] > limit_s}
            for number in slow:
                del self._open[number]
        for call, resource, since in slow.values():
            self._events.add(
                EventKind.SLOW_CALL, resource, f"{call} has been out for {now - since:.1f} s"
            )
