# SPDX-License-Identifier: Apache-2.0
"""The status document on the node page: containers, and what each of them sees of the node. Pure;
reads the document, not the values it was made from, because it may come from an agent of another
version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agents.agent import Status
from agents.panels import Bar, Fill, Item, Panel, Part, Tone
from agents.tables import size, text
from lxcfs_helper.tables import affinity_tables, root_tables

#: Of a view: as it shall be.
_FINE = frozenset({"attached", "host", "off"})

_ORDER = (Tone.BAD, Tone.NOTICE, Tone.GOOD, Tone.PLAIN)

Row = Mapping[str, Any]


def panels(status: Status) -> Sequence[Panel]:
    containers: Sequence[Row] = status.get("containers") or ()
    host = status.get("host") or {}
    answered = frozenset((status.get("affinity") or {}).get("answered") or ())
    seen = [_container(one, host, answered) for one in containers]
    # Those that somebody has to look at first, those that are left out last.
    seen.sort(key=lambda item: _ORDER.index(item.tone))
    below = (*affinity_tables(status), *root_tables(status))
    note = [] if seen else ["no container runs here"]
    if status.get("ready") is False:  # then nobody knows
        note = []
    return [Panel("What containers see", seen, below, notes=note)]


def _container(one: Row, host: Row, answered: frozenset[str]) -> Item:
    """`answered`: ids of containers whose programs are told the same number of CPUs."""
    name = "/".join(text(one.get(key)) for key in ("namespace", "pod", "container"))
    state, tone = views_state(one.get("views") or {})
    used, limit = one.get("memory_used"), one.get("memory_limit")
    facts = []
    if one.get("cpus") is not None:
        facts.append(("CPUs", _beside(text(one["cpus"]), host.get("cpus"), text)))
    if one.get("id") in answered:
        facts.append(("programs are told", "the same CPUs"))
    if limit is not None:
        facts.append(("memory", _beside(size(limit), host.get("memory"), size)))
        facts.append(("used", size(used)))
    bar = None
    if limit and used is not None:
        words = f"{size(used)} of {size(limit)} used"
        bar = Bar(max(limit, used), [Part(Fill.USED, used)], words)
    return Item(name, state, tone, facts, bar)


def _beside(own: str, hosts: object, shown: Any) -> str:
    return own if hosts is None else f"{own} of the node's {shown(hosts)}"


def views_state(views: Mapping[str, str]) -> tuple[str, Tone]:
    """One word where all are alike, else what differs by name."""
    states = {state for state in views.values() if state != "off"}
    tone = Tone.GOOD if "attached" in states else Tone.PLAIN
    if any(state.startswith("failed") for state in states):
        tone = Tone.BAD
    elif any(state not in _FINE and not state.startswith("excluded") for state in states):
        tone = Tone.NOTICE
    if not states:
        return "", Tone.PLAIN
    if len(states) == 1:
        return states.pop(), tone
    differing = (f"{name} {state}" for name, state in views.items() if state not in _FINE)
    return ", ".join(differing) or "attached where it differs", tone
