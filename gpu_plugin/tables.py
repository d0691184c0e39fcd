# SPDX-License-Identifier: Apache-2.0
"""The status document as tables for people. Pure; reads the document, not the values it was made
from, because it may come from an agent of another version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agents.agent import Status
from agents.tables import UNKNOWN, Table, size, text
from gpu_plugin import container_tables

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
    """All devices, and who uses them; nothing before the first look at them."""
    devices = status.get("devices") or ()
    notes = [str(problem) for problem in status.get("problems") or ()]
    if status.get("idle"):
        notes.append("no NVIDIA GPU on this node")
    if deaf := status.get("unmonitored"):
        notes.append(f"XID events are not heard of {', '.join(deaf)}")
    if not devices and not notes:
        return ()
    title = "GPUs (SIMULATED: no real device)" if status.get("simulated") else "GPUs"
    rows = [_row(device) for device in devices]
    devices_table = Table(title, _COLUMNS, rows, "\n".join(notes), measured=frozenset({"used"}))
    return (devices_table, *container_tables.tables(status))


def _row(device: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        text(device.get("gpu_index")),
        text(device.get("profile") or device.get("model")),
        size(device.get("memory_used")),
        size(device.get("memory_total")),
        text(device.get("resource")),
        _by_offer(device, "units", "units"),
        _by_offer(device, "units_allocated", "allocated"),
        _holders(device),
        text(device.get("health")),
    )


def _by_offer(device: Mapping[str, Any], key: str, of_offer: str) -> str:
    """The number of the device, or that of each resource where it serves several."""
    offers = device.get("offers") or ()
    if len(offers) < 2:
        return text(device.get(key))
    return ", ".join(
        f"{_short(offer.get('resource'))} {text(offer.get(of_offer))}" for offer in offers
    )


def _holders(device: Mapping[str, Any]) -> str:
    def of(holder: Mapping[str, Any]) -> str:
        what = f" {_short(holder.get('resource'))}" if several else ""
        return f"{holder.get('namespace')}/{holder.get('pod')}{what} {holder.get('units')}"

    several = len(device.get("offers") or ()) > 1
    return ", ".join(map(of, device.get("holders") or ())) or UNKNOWN


def _short(resource: object) -> str:
    return str(resource).rpartition("/")[2]
