# SPDX-License-Identifier: Apache-2.0
"""The status document as tables for people. Pure; reads the document, not the values it was made
from, because it may come from an agent of another version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agents.agent import Status
from agents.tables import UNKNOWN, Table, size, text

_COLUMNS = (
    "GPU",
    "device",
    "used",
    "of",
    "resource",
    "units",
    "given",
    "held by",
    "health",
)


def tables(status: Status) -> Sequence[Table]:
    """One table of all devices; nothing before the first look at them."""
    devices = status.get("devices") or ()
    problems = [str(problem) for problem in status.get("problems") or ()]
    if not devices and not problems:
        return ()
    title = "GPUs (SIMULATED: no real device)" if status.get("simulated") else "GPUs"
    rows = [_row(device) for device in devices]
    return (Table(title, _COLUMNS, rows, "; ".join(problems), measured=frozenset({"used"})),)


def _row(device: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        text(device.get("gpu_index")),
        text(device.get("profile") or device.get("model")),
        size(device.get("memory_used")),
        size(device.get("memory_total")),
        text(device.get("resource")),
        text(device.get("units")),
        text(device.get("units_allocated")),
        _holders(device.get("holders")),
        text(device.get("health")),
    )


def _holders(holders: Sequence[Mapping[str, Any]] | None) -> str:
    if not holders:
        return UNKNOWN
    return ", ".join(
        f"{holder.get('namespace')}/{holder.get('pod')} {holder.get('units')}" for holder in holders
    )
