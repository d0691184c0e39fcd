# SPDX-License-Identifier: Apache-2.0
"""The small page for people at `/`: an agent's tables as HTML. Pure; no script, nothing from
outside.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from agents.tables import Table

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;
color:#1d2430}
h1{font-size:1.4rem;margin-bottom:.2rem} h2{font-size:1.05rem;margin:1.6rem 0 .4rem}
table{border-collapse:collapse;width:100%} th,td{text-align:left;padding:.3rem .7rem .3rem 0;
border-bottom:1px solid #d9dee6;vertical-align:top} th{color:#5a6577;font-weight:600}
.ready{color:#1a7f37} .waiting{color:#b35900} td{font-variant-numeric:tabular-nums} p{color:#5a6577}
@media(prefers-color-scheme:dark){body{background:#12161d;color:#d7dde6} th,p{color:#94a0b2}
th,td{border-color:#2c3440} .ready{color:#4ac26b} .waiting{color:#e3a04f} a{color:#79a8ff}}
"""


def render_page(*, agent: str, node: str, reason: str | None, tables: Iterable[Table]) -> str:
    """`reason` None: ready. The page asks for itself again every five seconds."""
    state = "ready" if reason is None else f"not ready: {reason}"
    title = escape(f"nodeshare {agent} on {node}")
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'><meta http-equiv=refresh content=5>"
        f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>"
        f"<div class={'ready' if reason is None else 'waiting'}>{escape(state)}</div>"
        + "".join(_table(table) for table in tables)
        + "<p><a href=status.json>status.json</a></p></html>\n"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    note = "".join(f"<p>{escape(line)}</p>" for line in table.note.splitlines())
    content = f"<table><tr>{head}</tr>{body}</table>" if table.rows else "<p>none</p>"
    return f"<h2>{escape(table.title)}</h2>{content}{note}"
