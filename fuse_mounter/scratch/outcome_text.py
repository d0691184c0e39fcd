# SPDX-License-Identifier: Apache-2.0
"""What runs did, as rows of tables. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from agents.tables import Table, text
from fuse_mounter.scratch.config import ScratchRule
from fuse_mounter.scratch.outcome import Outcome, Skipped
from fuse_mounter.scratch.sizes import size_text

COLUMNS = ("scratch", "files", "size", "removed", "freed", "announced", "stays", "oldest")
_STATUS_COLUMNS = ("scratch", "removes", "last run", "next run", "problem")


def status_table(documents: Sequence[Mapping[str, Any]]) -> Table | None:
    """What an agent tells of its rules in its status document; None: there are none."""
    rows = [
        [
            one["name"],
            "yes" if one["armed"] else "no, it only counts",
            "now" if one["running"] else _instant(one["last_run"]),
            _instant(one["next_run"]),
            text(one["problem"]),
        ]
        for one in documents
    ]
    return Table("Scratch", _STATUS_COLUMNS, rows) if rows else None


def _instant(seconds: float | None) -> str:
    if seconds is None:
        return text(None)
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def row(rule: ScratchRule, outcome: Outcome) -> list[str]:
    """In the order of `COLUMNS`. `stays` says why old files stay."""
    others = {
        why.value: count for why, count in outcome.skipped.items() if why is not Skipped.ANNOUNCED
    }
    oldest = outcome.oldest
    return [
        rule.name,
        str(outcome.scanned),
        size_text(outcome.scanned_bytes),
        str(outcome.removed) if outcome.armed else f"{outcome.removed} would go",
        size_text(outcome.removed_bytes),
        str(outcome.skipped.get(Skipped.ANNOUNCED, 0)),
        ", ".join(f"{count} {why}" for why, count in sorted(others.items())) or text(None),
        text(None) if oldest is None else time.strftime("%Y-%m-%d", time.localtime(oldest)),
    ]
