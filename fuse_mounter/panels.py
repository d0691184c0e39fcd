# SPDX-License-Identifier: Apache-2.0
"""The status document on the node page: mounts with their state, room and last changes. Pure; reads
the document, not the values it was made from, because it may come from an agent of another version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agents.agent import Status
from agents.panels import Bar, Event, Fill, Item, Panel, Part, Tone, of_tables
from agents.tables import size, text
from fuse_mounter import attached
from fuse_mounter.credentials.tables import token_table
from fuse_mounter.scratch.outcome_text import status_table as scratch_table

#: By `states.State`; the others are on their way to something.
_TONES = {
    "published": Tone.GOOD,
    "failed": Tone.BAD,
    "dead": Tone.BAD,
    "hung": Tone.BAD,
}
#: So many of its last changes are shown; `nodeshare mounts show` has more.
_EVENTS = 5

Row = Mapping[str, Any]


def panels(status: Status) -> Sequence[Panel]:
    mounts: Sequence[Row] = status.get("mounts") or ()
    root = status.get("root")
    note = "no mount is configured"
    if mounts:
        note = f"pods see them below {root} (HostToContainer)" if root else ""
    others = (
        *attached.troubled(status.get("pods", ())),
        token_table(status.get("credentials", {})),
        scratch_table(status.get("scratch", ())),
    )
    items = [_mount(one, status) for one in mounts]
    # Those that somebody may have to look at first; else in the order of the configuration.
    items.sort(key=lambda item: item.tone is Tone.GOOD)
    found = Panel("Mounts", items, notes=[note] if note else [])
    return [found, *of_tables([table for table in others if table is not None])]


def _mount(one: Row, status: Status) -> Item:
    state, drained = str(one["state"]), " (drained)" if one.get("drained") else ""
    facts = [("driver", text(one["driver"])), ("at", text(one["path"]))]
    if one.get("source"):
        facts.append(("source", text(one["source"])))
    if one.get("client_pid") is not None:
        facts.append(("client", f"pid {one['client_pid']}"))
    if one.get("waiting"):
        facts.append(("requests waiting", text(one["waiting"])))
    if recoveries := sum((one.get("recoveries") or {}).values()):
        gap = one.get("last_gap_s")
        took = "" if gap is None else f", the last after {gap:.2f} s"
        facts.append(("brought back", f"{recoveries} times{took}"))
    if failures := (status.get("breakers") or {}).get(one.get("server")):
        facts.append(("its server", f"failed {failures} times in a row, and is waited for"))
    room, words = _room(one.get("space") or {})
    if words:
        facts.append(("space", words))
    if one.get("cause"):
        facts.append(("because", text(one["cause"])))
    tone = _TONES.get(state, Tone.NOTICE)
    return Item(text(one["name"]), state + drained, tone, facts, room, _events(one))


def _events(one: Row) -> list[Event]:
    last = list(one.get("history") or ())[-_EVENTS:]
    return [Event(e["at"], _words(e)) for e in reversed(last)]


def _words(change: Row) -> str:
    return f"{change['state']}: {change['cause']}" if change.get("cause") else str(change["state"])


def _room(space: Row) -> tuple[Bar | None, str]:
    """What is used of the file system, as its users see it."""
    whole, free = space.get("size"), space.get("available")
    if not whole or free is None:
        return None, ""
    words = f"{size(free)} of {size(whole)} available"
    return Bar(whole, [Part(Fill.USED, max(0, whole - free))], words), words
