# SPDX-License-Identifier: Apache-2.0
"""What an agent shows a person: tables of text, as values. The terminal and the page both draw
them.

Pure; knows no agent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: What stands where a value is not known.
UNKNOWN = "-"


@dataclass(frozen=True, slots=True)
class Table:
    """`rows` hold as many cells as there are `columns`; `note` is a line below, or empty."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def size(value: object) -> str:
    """Bytes for people: MiB below one GiB, else GiB with one decimal; anything else is unknown."""
    if not isinstance(value, int | float):
        return UNKNOWN
    return f"{value / (1 << 20):.0f} MiB" if value < 1 << 30 else f"{value / (1 << 30):.1f} GiB"


def text(value: object) -> str:
    """Any JSON value in one cell."""
    if value is None or value == "":
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def lines(tables: Iterable[Table]) -> list[str]:
    """Plain text, columns aligned: for a pipe, a log, a terminal without colours."""
    out: list[str] = []
    for table in tables:
        rows = [list(table.columns), *[list(row) for row in table.rows]]
        widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
        out.append(table.title)
        out += [
            "  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        if table.note:
            out.append(f"  {table.note}")
        out.append("")
    return out
