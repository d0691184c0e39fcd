# SPDX-License-Identifier: Apache-2.0
"""A container's status as its two files: `status` (a table for people) and `status.json` (a
documented schema). Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from agents.tables import UNKNOWN, Table, lines, size
from gpu_plugin.allocation import given_text
from gpu_plugin.container_events import Event, time_text
from gpu_plugin.container_status import ContainerStatus, DeviceRow, ProcessRow
from gpu_plugin.verdicts import Standing

#: After so many seconds without a new file, what it says is not to be trusted.
VALID_S = 45
#: Grows when a key of `status.json` changes its meaning or goes; new keys may come at any time.
VERSION = 1
_COLUMNS = ("device", "your share", "used", "limit", "left for you", "free on card", "card busy")
_PROCESSES = ("PID", "program", "device", "memory")
#: More processes than this are summed up.
_SHOWN_PROCESSES = 20
_STANDINGS = {
    Standing.BELOW: "within your share",
    Standing.ABOVE_REQUEST: "above your share; you may stay there while the card has room",
    Standing.OVER_LIMIT: "OVER YOUR LIMIT",
    Standing.WARNED: "OVER WHAT YOU MAY HAVE",
    Standing.TERMINATING: "OVER WHAT YOU MAY HAVE: processes are being ended now",
    Standing.UNINVITED: "this container was given nothing of this device",
    Standing.UNKNOWN: "how much you use is not known: the GPU driver does not tell",
}


@dataclass(frozen=True, slots=True)
class Page:
    """Both files, but for when they are written: that alone changes from one heartbeat to the
    next.
    """

    text: str
    json: str

    def text_at(self, written_at: float) -> str:
        """The file `status`."""
        return (
            f"{self.text}Written {time_text(written_at)}, and anew every few seconds: what is "
            f"older than {VALID_S} s is not true any more.\n"
        )

    def json_at(self, written_at: float) -> str:
        """The file `status.json`. The times stand on lines of their own: shells read them."""
        times = f'"written_at": {int(written_at)},\n"valid_s": {VALID_S},\n'
        return f'{{\n"version": {VERSION},\n{times}{self.json}}}\n'


def page(status: ContainerStatus, events: tuple[Event, ...]) -> Page:
    """As files."""
    rows: dict[str, Iterable[Any]] = {
        "devices": map(_device_document, status.devices),
        "processes": map(_plain, status.processes),
        "events": map(_plain, events),
    }
    lists = ",\n".join(f'"{key}": [{_items(values)}]' for key, values in rows.items())
    return Page(
        "\n".join(_lines(status, events)) + "\n",
        f'"simulated": {json.dumps(status.simulated)},\n{lists}\n',
    )


def _items(values: Iterable[Any]) -> str:
    # An item a line: with json's own indentation it takes ten times as long.
    return ",\n".join(map(json.dumps, values))


def _plain(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}


def _device_document(row: DeviceRow) -> dict[str, Any]:
    return {**_plain(row), "resources": [_plain(part) for part in row.resources]}


def _lines(status: ContainerStatus, events: tuple[Event, ...]) -> Iterator[str]:
    yield from _titles(status.devices)
    if status.simulated:
        yield "SIMULATED: this machine has no such GPU; nothing can be computed on it"
    yield ""
    rows = [_cells(row) for row in status.devices]
    yield from lines([Table("GPU memory", _COLUMNS, rows)])
    for row in status.devices:
        yield from _explained(row)
    yield ""
    yield from _processes(status.processes)
    if events:
        yield f"Last event (all are in the file events): {events[-1].line}"


def _titles(rows: Iterable[DeviceRow]) -> Iterator[str]:
    """A line for each resource, as Allocate wrote it."""
    totals: dict[str, tuple[int, int]] = {}
    for row in rows:
        units = sum(part.units for part in row.resources)
        for part in row.resources:
            before = totals.get(part.name, (0, 0))
            memory = row.request_bytes * part.units // units if units else 0
            totals[part.name] = (before[0] + part.units, before[1] + memory)
    for name, (count, memory) in totals.items():
        yield given_text(name, count, memory)
    if not totals:
        yield "no GPU memory was given to this container"


def _cells(row: DeviceRow) -> tuple[str, ...]:
    return (
        f"{row.name} {row.model}".rstrip() if row.model and row.model not in row.name else row.name,
        size(row.request_bytes),
        size(row.used_bytes),
        "none" if row.limit_bytes is None else size(row.limit_bytes),
        size(row.left_bytes),
        size(row.free_bytes),
        UNKNOWN if row.utilisation is None else f"{row.utilisation:.0%}",
    )


def _explained(row: DeviceRow) -> Iterator[str]:
    state = _STANDINGS[Standing(row.state)]
    if row.grace_left_s is not None:
        allowed = row.request_bytes if row.pressure else row.limit_bytes
        over = max(0, (row.used_bytes or 0) - (allowed or 0))
        state += f": free {size(over)} within {row.grace_left_s:.0f} s"
    if row.pressure:
        state += f" ({_PRESSURE})"
    yield f"{row.name}: {state}"
    if row.at_limit:
        yield f"  {row.at_limit}"
    if row.guarantee_bytes < row.request_bytes:
        yield f"  guaranteed: {size(row.guarantee_bytes)}, because more is given out than is there"
    if row.problem:
        yield f"  problem: {row.problem}"


_PRESSURE = "other containers need the memory that they were given"


def _processes(rows: tuple[ProcessRow, ...]) -> Iterator[str]:
    if not rows:
        yield "No process of this container uses a GPU now."
        return
    shown = [
        (
            UNKNOWN if row.pid is None else str(row.pid),
            row.program,
            row.device,
            size(row.used_bytes),
        )
        for row in rows[:_SHOWN_PROCESSES]
    ]
    rest = len(rows) - len(shown)
    note = f"and {rest} more, in status.json" if rest else ""
    yield from lines([Table("Your processes", _PROCESSES, shown, note)])
