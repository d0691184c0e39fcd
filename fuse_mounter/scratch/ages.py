# SPDX-License-Identifier: Apache-2.0
"""When a file goes, by a rule. Pure: knows a path, a stat result and a time.

Times are seconds of the epoch, ages seconds.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence

from fuse_mounter.scratch.config import Clock, ScratchRule

#: When a file was last of use.
LastUse = Callable[[os.stat_result], float]


def last_use(clock: Clock) -> LastUse:
    """By the rule's clock."""
    return _LAST_USE[clock]


def _used(status: os.stat_result) -> float:
    return max(status.st_atime, status.st_mtime)


def _modified(status: os.stat_result) -> float:
    return status.st_mtime


def _changed(status: os.stat_result) -> float:
    return max(status.st_mtime, status.st_ctime)


_LAST_USE: dict[Clock, LastUse] = {
    Clock.USED: _used,
    Clock.MODIFIED: _modified,
    Clock.CHANGED: _changed,
}


class Ages:
    """At which age a file goes: by the first rule for its path that matches, else by the largest
    size class that it reaches, else `older_than`.
    """

    def __init__(self, rule: ScratchRule) -> None:
        self._rule = rule
        self._paths = [(_matcher(each.path), each.older_than) for each in rule.paths]
        self._sizes = sorted(
            ((each.at_least, each.older_than) for each in rule.sizes), reverse=True
        )
        kept_shortest = [age for _, age in self._paths if age is not None]
        #: No file goes at a lesser age than this.
        self.shortest = min(
            [rule.older_than, *kept_shortest, *(each.older_than for each in rule.sizes)]
        )

    def of(self, path: str, size: int) -> float:
        """`path` is relative to the rule's directory. Infinite: it never goes."""
        for matches, age in self._paths:
            if matches(path):
                return math.inf if age is None else age
        return next((age for least, age in self._sizes if size >= least), self._rule.older_than)

    def keeps_all_below(self, path: str) -> bool:
        """Whether nothing in this folder can ever go, so that nobody need look."""
        for matches, age in self._paths:
            if matches(path):
                return age is None
            if age is not None:
                return False  # this rule comes first, and may match something in the folder
        return False


def _matcher(pattern: str) -> Callable[[str], bool]:
    expression = re.compile(_translate(pattern.split("/")), re.DOTALL)
    return lambda path: expression.fullmatch(path) is not None


def _translate(parts: Sequence[str]) -> str:
    """Of a pattern whose folders count with all in them."""
    text = ""
    for position, part in enumerate(parts):
        if part == "**":
            text += "(?:[^/]+/)*" if position < len(parts) - 1 else "[^/]+"
        else:
            text += _within_a_name(part) + ("/" if position < len(parts) - 1 else "")
    return f"{text}(?:/.*)?"


def _within_a_name(part: str) -> str:
    return "".join({"*": "[^/]*", "?": "[^/]"}.get(letter, re.escape(letter)) for letter in part)
