# SPDX-License-Identifier: Apache-2.0
"""What this package declares to the runtime: section, noun, commands, tables. Imports nothing
heavy."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from agents.agent import Agent, AgentContext, Status
from agents.config import Section
from agents.tables import Table, size, text
from lxcfs_helper import commands
from lxcfs_helper.config import ViewConfig


def _load() -> Callable[[AgentContext], Awaitable[None]]:
    from lxcfs_helper.service import run  # heavy: only the running agent needs it

    return run


def _refuse_change(_old: Section, _new: Section) -> str | None:
    return None  # every key is read again on each sweep


def _tables(status: Status) -> Sequence[Table]:
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
    root = status.get("compat_root", {})
    return (views, _root(root)) if root.get("path") else (views,)


def _root(root: Mapping[str, Any]) -> Table:
    """The compatible root, where one is configured."""
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
    return Table("Compatible root", columns, [row], root["reason"], measured=measured)


def _views(views: Mapping[str, str]) -> str:
    """`attached` for all that are; what differs by name."""
    states = {state for state in views.values() if state != "off"}
    if len(states) == 1:
        return states.pop()
    return ", ".join(f"{name} {state}" for name, state in views.items() if state != "off")


AGENT = Agent(
    section="lxcfs_helper",
    noun="view",
    model=ViewConfig,
    load=_load,
    commands=commands.add,
    refuse_change=_refuse_change,
    tables=_tables,
    clear=("view", "eject"),
)
