# SPDX-License-Identifier: Apache-2.0
"""What a run did, in numbers: for the progress, the report, metrics and JSON. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any


class Skipped(enum.Enum):
    """Why something that is old enough stayed, or was not looked at."""

    ANNOUNCED = "announced"  # it goes later, and its owner is told
    KEPT = "kept"  # by a keep file or a rule for its path
    OPEN = "open"  # in use on this node
    CHANGED = "changed"  # used, or replaced by another, while we looked
    MOVED = "moved"  # its folder is not where it was
    FUTURE = "future"  # its times lie ahead: its clock, or ours, is wrong
    SPECIAL = "special"  # a socket, a pipe or a device
    MOUNT = "mount"  # another mount inside
    DEPTH = "depth"  # nested too deep
    UNREADABLE = "unreadable"
    REFUSED = "refused"  # the file system did not let us
    CAPPED = "capped"  # as much as one run may remove is removed


_MOST_PROBLEMS = 20


@dataclass(slots=True)
class Outcome:
    """Counts of one run. `removed` and `removed_bytes` are what would go when it is not `armed`.

    `bytes` of a file are what it occupies, those with other names count nothing. `oldest` is the
    last use of the oldest file that stays (seconds of the epoch; None: there is none). `last_run`:
    when this run began, or the one before, if it was not yet time for another (`ran` is false
    then); None: not over yet. `clock` says which clock was used, in words.
    """

    armed: bool
    scanned: int = 0
    scanned_bytes: int = 0
    folders: int = 0
    removed: int = 0
    removed_bytes: int = 0
    removed_folders: int = 0
    skipped: dict[Skipped, int] = field(default_factory=dict)
    announced_bytes: int = 0
    oldest: float | None = None
    problems: list[str] = field(default_factory=list)
    clock: str | None = None
    ran: bool = False
    last_run: float | None = None

    def skip(self, why: Skipped) -> None:
        self.skipped[why] = self.skipped.get(why, 0) + 1

    def problem(self, text: str) -> None:
        """The first ones; there may be thousands of users."""
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(text)

    def stays(self, last_use: float) -> None:
        if self.oldest is None or last_use < self.oldest:
            self.oldest = last_use

    def document(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "armed": self.armed,
            "scanned": self.scanned,
            "scanned_bytes": self.scanned_bytes,
            "folders": self.folders,
            "removed": self.removed,
            "removed_bytes": self.removed_bytes,
            "removed_folders": self.removed_folders,
            "skipped": {
                why.value: count
                for why, count in sorted(self.skipped.items(), key=lambda item: item[0].value)
            },
            "announced_bytes": self.announced_bytes,
            "oldest": self.oldest,
            "problems": self.problems,
            "clock": self.clock,
            "ran": self.ran,
            "last_run": self.last_run,
        }
