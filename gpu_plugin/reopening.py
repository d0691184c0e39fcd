# SPDX-License-Identifier: Apache-2.0
"""When to open the driver anew for a GPU that it gave up: ever more seldom. Pure; knows no driver.

Each time costs everybody a moment without answers, and events that are reported in it.
"""

from __future__ import annotations


class Reopening:
    """First `first_s` seconds after it was wanted, then after twice that, up to `longest_s`."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s, self._longest_s = first_s, longest_s
        self._pause_s = 0.0
        self._at = 0.0

    def due(self, wanted: bool, now: float) -> bool:
        """Whether to do it now (monotonic seconds). No longer wanted, all begins from the start."""
        if not wanted:
            self._pause_s = 0.0
            return False
        if self._pause_s == 0.0:
            self._pause_s, self._at = self._first_s, now + self._first_s
            return False
        if now < self._at:
            return False
        self._pause_s = min(2 * self._pause_s, self._longest_s)
        self._at = now + self._pause_s
        return True
