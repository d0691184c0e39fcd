# SPDX-License-Identifier: Apache-2.0
"""Where tables go: a live terminal, refreshed in place, or lines, and then only those that changed.

Knows no agent: only tables and lines of text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.table import Table as RichTable
from rich.text import Text

from agents.tables import Table, harmless, keyed_lines, lines

_GOOD = frozenset({"ready", "published", "healthy", "Running", "attached"})
_BAD = frozenset({"dead", "failed", "hung", "Failed", "unavailable", "unhealthy"})


def print_tables(tables: Sequence[Table]) -> None:
    """Once: in colours on a terminal, else as plain lines."""
    console = Console()
    if console.is_terminal:
        console.print(_drawn(tables))
    else:
        print("\n".join(lines(tables)))


def _drawn(shown: Iterable[Table]) -> RenderableType:
    parts: list[RenderableType] = []
    for table in shown:
        drawn = RichTable(
            title=table.title, title_justify="left", title_style="bold", expand=False, box=None
        )
        for column in table.columns:
            drawn.add_column(column, header_style="dim", overflow="fold")
        for row in table.rows:
            drawn.add_row(*(_cell(cell) for cell in row))
        parts.append(drawn if table.rows else Text(f"{table.title}: none", style="dim"))
        parts += [Text(f"  {harmless(line)}", style="dim") for line in table.note.splitlines()]
        parts.append(Text(""))
    return Group(*parts)


def _cell(written: str) -> Text:
    text = harmless(written)
    first = text.split(":")[0].split(" ")[0]
    bad = first in _BAD or first.endswith(("Error", "BackOff"))
    return Text(text, style="green" if first in _GOOD else "red" if bad else "")


@dataclass(frozen=True, slots=True)
class _Fitted:
    """Tables, cut to what the terminal can show above the steps: what is longer than a terminal
    cannot be refreshed in place."""

    tables: Sequence[Table]
    steps: Sequence[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        steps = Group(*(Text(step, style="cyan") for step in self.steps))
        below = console.render_lines(steps, options, pad=False)
        above = console.render_lines(_drawn(self.tables), options, pad=False)
        room = max(options.size.height - len(below) - 1, 0)
        if len(above) > room:
            cut = f"… {len(above) - room + 1} more lines; make the terminal larger to see them"
            above = [*above[: max(room - 1, 0)], [Segment(cut[: options.max_width])]]
        for line in (*above, *below):
            yield from line
            yield Segment.line()


class Screen:
    """Shows tables, and below them what to do next. `plain` forces lines upon a terminal."""

    def __init__(self, *, plain: bool = False) -> None:
        console = Console()
        # On a dumb terminal nothing can be refreshed: rich would show nothing before the end.
        live = console.is_terminal and not console.is_dumb_terminal and not plain
        self._live = Live(console=console, auto_refresh=False) if live else None
        self._printed: set[str] = set()
        #: Whoever read our output has gone (`| head`).
        self.unread = False

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, tables: Sequence[Table], steps: Sequence[str] = ()) -> None:
        if self._live is not None:
            self._live.update(_Fitted(tables, steps), refresh=True)
            return
        current = [*keyed_lines(tables), *((step, step) for step in steps)]
        for key, line in current:
            if line and key not in self._printed:
                self.say(line)
        self._printed = {key for key, _ in current}

    def say(self, text: str) -> None:
        """One line, now. That it cannot be written ends nothing half-way."""
        try:
            print(text, flush=True)
        except BrokenPipeError:
            self.unread = True
        except OSError:
            pass  # a full disk: the next line may fit again
