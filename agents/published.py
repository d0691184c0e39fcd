# SPDX-License-Identifier: Apache-2.0
"""An immutable latest value, handed across threads. Readers never wait for the writer's work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[T]):
    """A value, its number (1 for the first one published) and when it came (monotonic seconds)."""

    value: T
    version: int
    at: float


class Published(Generic[T]):
    """Set by one writer, read by many threads. The value itself must be immutable."""

    def __init__(self, initial: T) -> None:
        self._changed = threading.Condition()
        self._snapshot = Snapshot(initial, 0, time.monotonic())
        self._closed = False

    @property
    def snapshot(self) -> Snapshot[T]:
        return self._snapshot

    @property
    def value(self) -> T:
        return self._snapshot.value

    def set(self, value: T) -> None:
        with self._changed:
            self._snapshot = Snapshot(value, self._snapshot.version + 1, time.monotonic())
            self._changed.notify_all()

    def close(self) -> None:
        """Wake every waiter for good: `wait_newer` then answers None."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wake(self) -> None:
        """Let every waiter look at its `unless` now."""
        with self._changed:
            self._changed.notify_all()

    def wait_newer(
        self,
        version: int,
        timeout_s: float | None = None,
        *,
        unless: Callable[[], bool] = lambda: False,
    ) -> Snapshot[T] | None:
        """Block the calling *thread* until a newer version.

        None after the timeout, when closed, or when `unless` holds (it is looked at on each wake).
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or unless() or self._snapshot.version > version, timeout_s
            )
            if self._closed or self._snapshot.version <= version:
                return None
            return self._snapshot
