# SPDX-License-Identifier: Apache-2.0
"""The status document as tables for people. Pure; reads the document, not the values it was made
from, because it may come from an agent of another version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agents.agent import Status
from agents.tables import Table, size, text


def tables(status: Status) -> Sequence[Table]:
    """Containers and their views; where there are, answered calls, and the compatible root."""
    containers: Sequence[Mapping[str, Any]] = status.get("containers", ())
    rows = [
        [
            f"{one['namespace']}/{one['pod']}",
            one["container"],
            text(one["cpus"]),
            size(one["memory_limit"]),
            size(one["memory_used"]),
            _views(one["views"]),
        ]
        for one in containers
    ]
    columns = ("pod", "container", "CPUs", "memory", "used", "views")
    note = "" if rows else "no container runs here"
    if status.get("ready") is False:  # then nobody knows
        note = str(status.get("reason") or "")
    views = Table("Views", columns, rows, note, measured=frozenset({"used"}))
    return (views, *affinity_tables(status), *root_tables(status))


def affinity_tables(status: Status) -> Sequence[Table]:
    """Calls of containers that are answered, where that is enabled."""
    affinity: Mapping[str, Any] = status.get("affinity", {})
    if not affinity.get("enabled"):
        return ()
    calls: Mapping[str, int] = affinity["calls"]
    row = [
        str(len(affinity["answered"])),
        str(affinity["descriptors"]),
        str(_ending(calls, "answered")),
        str(_ending(calls, "kernel")),
        str(_ending(calls, "failed")),
        str(affinity["held"]),
        str(sum(n for how, n in affinity["held_programs"].items() if how != "attached")),
    ]
    columns = ("containers", "descriptors", "answered", "kernel's", "failed", "waiting", "unready")
    measured = frozenset({"answered", "kernel's", "failed"})
    note = affinity["problem"] or ""
    return (Table("Answered calls", columns, [row], note, measured=measured),)


def _ending(calls: Mapping[str, int], result: str) -> int:
    return sum(number for call, number in calls.items() if call.endswith(f" {result}"))


def root_tables(status: Status) -> Sequence[Table]:
    """The compatible root, where one is configured."""
    root: Mapping[str, Any] = status.get("compat_root", {})
    if not root.get("path"):
        return ()
    shown = "each container's own" if root["virtual"] else "the host's (SIGUSR2)"
    row = [
        root["path"],
        root["state"],
        text(root["pid"]),
        shown,
        str(sum(root["opens"].values())),
        str(sum(root["host_answers"].values())),
        str(root["restarts"]),
    ]
    columns = ("lxcfs-compatible root", "state", "pid", "values", "opens", "host's", "restarts")
    measured = frozenset({"opens", "host's"})
    return (Table("Compatible root", columns, [row], root["reason"], measured=measured),)


def _views(views: Mapping[str, str]) -> str:
    """`attached` for all that are; what differs by name."""
    states = {state for state in views.values() if state != "off"}
    if len(states) == 1:
        return states.pop()
    return ", ".join(f"{name} {state}" for name, state in views.items() if state != "off")
