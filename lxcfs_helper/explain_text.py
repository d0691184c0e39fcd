# SPDX-License-Identifier: Apache-2.0
"""Explanations as tables for people and as a document for programs. Pure, but for `listing`, which
is given what runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from agents import tables
from agents.containers import Container
from agents.report import Report
from agents.tables import Table
from lxcfs_helper.config import ViewName
from lxcfs_helper.container_limits import Limits
from lxcfs_helper.explain import Explanation, Shown
from lxcfs_helper.views import Told

_COLUMNS = ("WHAT", "CONTAINER SEES", "HOST", "FROM", "HOW")


def listing(running: Iterable[tuple[Container, frozenset[ViewName] | None]]) -> str:
    """Every running container, and which views it is shown (None: it has no process to ask)."""
    rows = [
        [f"{one.pod.namespace}/{one.pod.name}", one.name, tables.text(one.pid), _names(shown)]
        for one, shown in running
    ]
    return "\n".join(tables.lines([Table("Views", ("pod", "container", "pid", "shown"), rows)]))


def report(explanations: Sequence[Explanation]) -> Report:
    """Everything that is known, for people and for programs."""
    pages = [table for one in explanations for table in _page(one)]
    return Report(tables.lines(pages), {"containers": [_document(one) for one in explanations]})


def _names(shown: frozenset[ViewName] | None) -> str:
    if shown is None:
        return tables.UNKNOWN
    return ", ".join(n.value for n in ViewName if n in shown) or "nothing: the host's own files"


def _page(one: Explanation) -> list[Table]:
    """Long cgroup paths are named once, and then by a number."""
    short = {path: f"[{number}]" for number, path in enumerate(one.levels)}
    levels = [[short[path], path] for path in one.levels]
    standing = [[name.value, shown.state, shown.why] for name, shown in one.views.items()]
    return [
        Table(one.title, ("CGROUP", "PATH"), levels),
        Table("limits", ("WHAT", "VALUE", "SET BY"), _limits(one.facts.limits, short)),
        Table("views", ("VIEW", "STATE", ""), standing),
        *(
            Table(name.value, _COLUMNS, [_row(told, short) for told in shown.told])
            for name, shown in one.views.items()
            if shown.told
        ),
        _calls(one.calls, short),
    ]


def _calls(calls: Shown, short: dict[str, str]) -> Table:
    title = f"system calls: {calls.state}"
    return Table(title, _COLUMNS, [_row(told, short) for told in calls.told], calls.why)


def _row(told: Told, short: dict[str, str]) -> list[str]:
    origin = told.origin
    for path in sorted(short, key=len, reverse=True):
        if path != "/":
            origin = origin.replace(path, short[path])
    return [told.what, told.value, tables.text(told.host), origin, told.formula]


def _limits(limits: Limits, short: dict[str, str]) -> list[list[str]]:
    memory, swap, quota = limits.memory, limits.swap, limits.quota
    swap_name = "memory and swap" if limits.swap_with_memory else "swap"
    rows = [
        ("memory", None if memory is None else (tables.size(memory.value), memory.path)),
        (swap_name, None if swap is None else (tables.size(swap.value), swap.path)),
        ("CPU quota", None if quota is None else (f"{quota.value:g} CPUs", quota.path)),
    ]
    out = [
        [what, *(("no limit", tables.UNKNOWN) if limit is None else limit)] for what, limit in rows
    ]
    allowed = tables.UNKNOWN if limits.allowed is None else str(len(limits.allowed))
    named = [[what, value, short.get(path, path)] for what, value, path in out]
    return [*named, ["CPUs allowed", allowed, "cpuset"]]


def _document(one: Explanation) -> dict[str, Any]:
    limits = one.facts.limits
    return {
        "container": one.title,
        "pid": one.pid,
        "cgroups": list(one.levels),
        "limits": {
            "memory_bytes": _limit(limits.memory),
            "swap_bytes": _limit(limits.swap),
            "swap_counts_memory": limits.swap_with_memory,
            "cpu_quota": _limit(limits.quota),
            "cpus_allowed": None if limits.allowed is None else sorted(limits.allowed),
        },
        "views": {name.value: _view(shown) for name, shown in one.views.items()},
        "calls": _view(one.calls),
    }


def _limit(limit: Any) -> dict[str, Any] | None:
    return None if limit is None else {"value": limit.value, "set_by": limit.path}


def _view(shown: Shown) -> dict[str, Any]:
    return {
        "state": shown.state,
        "why": shown.why,
        "values": [
            {
                "what": told.what,
                "container": told.value,
                "host": told.host,
                "from": told.origin,
                "how": told.formula,
            }
            for told in shown.told
        ],
    }
