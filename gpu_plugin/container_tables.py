# SPDX-License-Identifier: Apache-2.0
"""Who uses what, of the status document, as tables for the host's eyes. Pure; reads the document,
not the values it was made from, because it may come from an agent of another version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agents.agent import Status
from agents.tables import UNKNOWN, Table, size, text

_COLUMNS = (
    "container",
    "device",
    "resource",
    "used",
    "request",
    "limit",
    "processes",
    "idle",
    "state",
    "limited by",
)
_REST = ("device", "no process accounts for", "host processes", "they hold", "unknown processes")
_ACTS = ("at", "container", "device", "did", "because of", "used", "may have", "outcome", "process")


def tables(status: Status) -> Sequence[Table]:
    """Containers that hold or use something, what no container accounts for, and the last acts;
    each only where there is any.
    """
    found = []
    if containers := status.get("containers"):
        notes = [f"{name_of(row)}: {row['problem']}" for row in containers if row.get("problem")]
        rows = [_row(row) for row in containers]
        measured = frozenset({"used", "idle"})
        found.append(
            Table("Containers on GPUs", _COLUMNS, rows, "\n".join(notes), measured=measured)
        )
    titles = {str(one.get("uuid")): _title(one) for one in status.get("devices") or ()}
    if rest := [one for one in status.get("device_use") or () if _worth_showing(one)]:
        rows = [
            (
                titles.get(str(one.get("device")), text(one.get("device"))),
                size(one.get("unattributed")),
                text(one.get("host_processes")),
                size(one.get("host")),
                text(one.get("unknown_processes")),
            )
            for one in rest
        ]
        measured = frozenset({_REST[1], _REST[3]})
        found.append(Table("Beside the containers", _REST, rows, measured=measured))
    if (acts := acts_table(status)) is not None:
        found.append(acts)
    return found


def acts_table(status: Status) -> Table | None:
    """What was done to containers; None: nothing."""
    acts = status.get("acts")
    title = "What was done last, the newest first"
    return Table(title, _ACTS, [*map(_act, acts)]) if acts else None


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    limit = row.get("limit")
    return (
        name_of(row),
        text(row.get("device_name")),
        text(row.get("resource") or "UNINVITED"),
        size(row.get("used")),
        size(row.get("request")),
        "none" if limit is None else size(limit),
        text(row.get("processes")),
        span(row.get("idle_s")),
        text(row.get("state")),
        text(row.get("backend")),
    )


def _act(act: Mapping[str, Any]) -> tuple[str, ...]:
    before, after = ("at", "container", "device", "action", "reason"), ("outcome", "text")
    return (
        *(text(act.get(key)) for key in before),
        size(act.get("used")),
        size(act.get("allowed")),
        *(text(act.get(key)) for key in after),
    )


def name_of(row: Mapping[str, Any]) -> str:
    """A container, as far as it has names."""
    parts = [str(row.get(key) or "") for key in ("namespace", "pod", "container")]
    return "/".join(part for part in parts if part)


def _title(device: Mapping[str, Any]) -> str:
    return f"GPU {device.get('gpu_index')} {device.get('profile') or device.get('model')}"


def _worth_showing(row: Mapping[str, Any]) -> bool:
    return any(row.get(key) for key in ("unattributed", "host_processes", "unknown_processes"))


def span(seconds: object) -> str:
    """For how long it was idle."""
    if not isinstance(seconds, int | float):
        return UNKNOWN
    if seconds < 60:
        return "no"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
