# SPDX-License-Identifier: Apache-2.0
"""The node page: what agents show (`panels`) as one HTML document that needs nothing else.

Pure. Every text from outside goes through `_text`: one line of printable characters, escaped; no
element and no attribute is made of data. Style and script are constants, which the policy names by
their hashes, so that nothing else can run or dress the page. Bars are SVG: geometry is no style.
Without a script the page loads itself again; with one it takes in what differs.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from html import escape
from importlib.resources import files

from agents.panels import Bar, Event, Fill, Item, Panel, Part, Tone
from agents.plain_text import plain
from agents.tables import Table

#: How often the page asks for itself. `page.js` has the same number.
REFRESH_S = 5
#: A bar is so wide, in units of its own.
_WIDTH = 1000
#: What is there at all can be seen.
_LEAST = 4


@dataclass(frozen=True, slots=True)
class Source:
    """One agent on the page. `reason` None: ready. `age_s`: how old all of this is (None: it is of
    this moment), because the agent is gone or hangs.
    """

    name: str
    reason: str | None
    panels: Sequence[Panel]
    facts: Sequence[tuple[str, str]] = ()
    age_s: float | None = None


def _constant(name: str) -> str:
    """A file of this package, without comments and indentation."""
    lines = map(str.strip, files("agents").joinpath(name).read_text().splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_STYLE, _SCRIPT = _constant("page.css"), _constant("page.js")
#: Changes with style and script: a page that is open loads itself as a whole then.
_EDITION = hashlib.sha256((_STYLE + _SCRIPT).encode()).hexdigest()[:8]
#: For the header Content-Security-Policy.
POLICY = "; ".join(
    (
        "default-src 'none'",
        f"style-src {_hash(_STYLE)}",
        f"script-src {_hash(_SCRIPT)}",
        "connect-src 'self'",
        "img-src data:",  # the empty icon: else a browser asks for one
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


def render(node: str, what: str, sources: Sequence[Source], now: float) -> str:
    """The document. `what` the page is of, `now` in seconds of the epoch."""
    ids = _Ids()
    title = f"{_text(node)} · {_text(what)}"
    body = "".join(_guarded(source, f"s{number}", ids) for number, source in enumerate(sources))
    gone = "Nobody answers any more. This is how it was when somebody did, so long ago:"
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f'<title>{title}</title><link rel=icon href="data:,">'
        f"<noscript><meta http-equiv=refresh content={REFRESH_S}></noscript>"
        f"<style>{_STYLE}</style></head><body>"
        "<a class=skip href=#main>Skip to the content</a>"
        f'<div id=gone hidden data-text="{gone}"><span role=alert></span> <span></span></div>'
        f"<div id=page data-edition={_EDITION}>"
        f"<header><h1>{title}</h1><p>as of {_time(now)}</p></header>"
        f"{_navigation(sources)}<main id=main tabindex=-1>{body}</main>"
        "<footer><a href=status.json>status.json</a> has all of this, and more</footer></div>"
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def trouble(error: Exception) -> Panel:
    """In the place of what cannot be shown."""
    problem = f"its answer cannot be shown ({type(error).__name__}: {error})"
    return Panel("Status", problems=(problem,))


def _guarded(source: Source, number: str, ids: _Ids) -> str:
    try:
        return _source(source, number, ids)
    except Exception as error:  # noqa: BLE001 -- values of another version: the others are shown
        return _source(replace(source, panels=[trouble(error)], facts=()), number, ids)


class _Ids:
    """By which the script finds what is the same thing later, in whatever order."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, *path: str) -> str:
        found = f"i{zlib.crc32('/'.join(path).encode(errors='surrogatepass')):08x}"
        while found in self._taken:
            found += "x"
        self._taken.add(found)
        return found


def _text(text: str) -> str:
    return escape(plain(text))


def _time(at: float) -> str:
    """In UTC, as logs have it."""
    try:
        moment = datetime.fromtimestamp(at, UTC)
    except (OverflowError, ValueError, OSError):  # a document of whatever origin
        return "an unknown time"
    return f"<time datetime={moment:%Y-%m-%dT%H:%M:%SZ}>{moment:%Y-%m-%d %H:%M:%S} UTC</time>"


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _navigation(sources: Sequence[Source]) -> str:
    if len(sources) < 2:
        return ""
    links = (
        f"<li><a href=#s{number}>{_text(source.name)}</a> {_readiness(source)}"
        for number, source in enumerate(sources)
    )
    return f"<nav aria-label=Agents><ul>{''.join(links)}</ul></nav>"


def _readiness(source: Source) -> str:
    if source.age_s is not None:
        return "<span class='state bad'>gone</span>"
    if source.reason is None:
        return "<span class='state good'>ready</span>"
    return "<span class='state notice'>not ready</span>"


def _source(source: Source, number: str, ids: _Ids) -> str:
    old = source.age_s is not None
    said = [] if source.reason is None else [source.reason]
    if source.age_s is not None:
        said.append(f"what stands here is {_span(source.age_s)} old")
    return (
        f"<section id={number} aria-labelledby={number}h{' class=old' if old else ''}>"
        f"<header><h2 id={number}h>{_text(source.name)} {_readiness(source)}</h2>"
        f"{_facts(source.facts)}</header>{_lines(said, 'problems')}"
        f"{''.join(_panel(panel, source.name, ids) for panel in source.panels)}</section>"
    )


def _panel(panel: Panel, source: str, ids: _Ids) -> str:
    number = ids.of("panel", source, panel.title)
    parts = [f"<section id={number} aria-labelledby={number}h>"]
    parts.append(f"<h3 id={number}h>{_text(panel.title)}</h3>")
    parts.append(_lines(panel.problems, "problems"))
    parts.append(_legend(panel.legend))
    if panel.items:
        items = (_item(item, number, ids) for item in panel.items)
        parts += ["<ul class=items>", *items, "</ul>"]
    parts += [_table(table, seen=table.title != panel.title) for table in panel.tables]
    parts.append(_lines(panel.notes, "soft"))
    return "".join([*parts, "</section>"])


def _lines(lines: Sequence[str], kind: str) -> str:
    if not lines:
        return ""
    return f"<ul class={kind}>{''.join(f'<li>{_text(line)}' for line in lines)}</ul>"


def _legend(legend: Sequence[tuple[Fill, str]]) -> str:
    keys = (
        f"<li><svg class=key viewBox='0 0 1 1' aria-hidden=true><rect class={fill.value} width=1 "
        f"height=1 /></svg>{_text(words)}"
        for fill, words in legend
    )
    return f"<ul class='legend soft'>{''.join(keys)}</ul>" if legend else ""


def _item(item: Item, place: str, ids: _Ids, *, inner: bool = False) -> str:
    number, tag = ids.of(place, item.name), "b" if inner else "h4"
    tone = "" if item.tone is Tone.PLAIN else f" class={item.tone.value}"
    state = f"<span class=state>{_text(item.state)}</span>" if item.state else ""
    inside = "".join(_item(one, number, ids, inner=True) for one in item.items)
    return (
        f"<li id={number}{tone}><div class=head><{tag}>{_text(item.name)}</{tag}>{state}</div>"
        f"{_bar(item.bar)}{_facts(item.facts)}{_events(item.events, number)}"
        + (f"<ul class=inner>{inside}</ul>" if inside else "")
    )


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    rows = (f"<div><dt>{_text(what)}<dd>{_text(value)}</div>" for what, value in facts)
    return f"<dl>{''.join(rows)}</dl>" if facts else ""


def _events(events: Sequence[Event], number: str) -> str:
    if not events:
        return ""
    rows = "".join(f"<li>{_time(event.at)} {_text(event.text)}" for event in events)
    return f"<details id={number}e><summary>last changes</summary><ol>{rows}</ol></details>"


def _bar(bar: Bar | None) -> str:
    if bar is None:
        return ""
    shapes = "".join(
        f"<rect class={kind} x={start} width={width} height=10 />"
        for kind, start, width in _shapes(bar)
    )
    return (
        f"<svg class=bar role=img viewBox='0 0 {_WIDTH} 10' preserveAspectRatio=none "
        f'aria-label="{_text(bar.text)}">{shapes}</svg>'
    )


def _shapes(bar: Bar) -> Iterator[tuple[str, int, int]]:
    """Class, beginning and width of each rectangle; none reaches beyond the bar."""
    at = 0.0
    for part in _drawn(bar.parts):
        start = _place(at, bar.whole)
        at += part.amount
        width = min(max(_place(at, bar.whole) - start, _LEAST), _WIDTH - start)
        if part.fill is not Fill.FREE:
            yield part.fill.value, start, max(width - 2, 0)  # a line between neighbours
    for mark in bar.marks:
        yield "mark", min(_place(mark, bar.whole), _WIDTH - 4), 4


def _drawn(parts: Iterable[Part]) -> Iterator[Part]:
    return (part for part in parts if part.amount > 0)


def _place(amount: float, whole: float) -> int:
    part = amount / whole if whole > 0 else 0.0
    return round(min(part, 1.0) * _WIDTH) if part > 0 else 0  # also of what is no number


def _table(table: Table, *, seen: bool) -> str:
    """`seen` False: its title stands above it already."""
    note = _lines(table.note.split("\n") if table.note else [], "soft")
    if not table.rows:
        return note or "<p class=soft>none</p>"
    caption = f"<caption{'' if seen else ' class=unseen'}>{_text(table.title)}</caption>"
    head = "".join(f"<th scope=col>{_text(column)}" for column in table.columns)
    rows = "".join(_row(table.columns, row) for row in table.rows)
    return f"<table>{caption}<thead><tr>{head}</thead><tbody>{rows}</tbody></table>{note}"


def _row(columns: Sequence[str], row: Sequence[str]) -> str:
    cells = (
        f'<{tag} data-of="{_text(column)}">{_text(cell)}'
        for tag, column, cell in zip(
            ("th scope=row", *["td"] * (len(row) - 1)), columns, row, strict=True
        )
    )
    return f"<tr>{''.join(cells)}"
