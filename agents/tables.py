# SPDX-License-Identifier: Apache-2.0
"""What an agent shows a person: tables of text, as values. The terminal and the page both draw
them.

Pure; knows no agent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agents.plain_text import plain

#: Of one cell in a terminal.
_LONGEST = 2000
#: What stands where a value is not known.
UNKNOWN = "-"


@dataclass(frozen=True, slots=True)
class Table:
    """`rows` hold as many cells as there are `columns`; `note` is what stands below,
    line by line, or empty.

    `measured` are columns whose numbers move all the time: for whoever is told of changes only, a
    row that differs in nothing else is the same row.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    measured: frozenset[str] = frozenset()


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


def harmless(text: str) -> str:
    """What a cell says, without what a terminal would obey: its author may be anybody."""
    return plain(text, _LONGEST)


def lines(tables: Iterable[Table]) -> list[str]:
    """Plain text, columns aligned: for a pipe, a log, a terminal without colours."""
    return [line for _, line in keyed_lines(tables)]


def keyed_lines(tables: Iterable[Table]) -> list[tuple[str, str]]:
    """The same, each line with what makes it another line: what it says, however it is aligned."""
    out: list[tuple[str, str]] = []
    for table in tables:
        rows = [list(table.columns), *[list(map(harmless, row)) for row in table.rows]]
        widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
        out.append((table.title, table.title))
        for row in rows:
            line = "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True))
            out.append((_key(table, row), f"  {line.rstrip()}"))
        out += [(line, f"  {harmless(line)}") for line in table.note.splitlines()]
        out.append(("", ""))
    return out


def _key(table: Table, row: Sequence[str]) -> str:
    cells = zip(table.columns, row, strict=True)
    return "\t".join([table.title, *(c for column, c in cells if column not in table.measured)])
