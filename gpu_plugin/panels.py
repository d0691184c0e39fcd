# SPDX-License-Identifier: Apache-2.0
"""The status document on the node page: each device as a bar of its memory, with its containers.
Pure; reads the document, not the values it was made from, because it may come from an agent of
another version. What is not known stays unknown: it is never drawn as free.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from agents.agent import Status
from agents.panels import Bar, Fill, Item, Panel, Part, Tone
from agents.tables import UNKNOWN, Table, size, text
from gpu_plugin import container_tables
from gpu_plugin.container_tables import name_of, span

_LEGEND = (
    (Fill.USED, "used by its container"),
    (Fill.KEPT, "given, not used"),
    (Fill.OVER, "above its limit, or not invited"),
    (Fill.OTHER, "used by others"),
    (Fill.RESERVED, "kept by the driver"),
    (Fill.UNKNOWN, "not known"),
)
#: By how a container stands (`verdicts.Standing`).
_STATES = {
    "below": ("within its request", Tone.GOOD),
    "above_request": ("above its request", Tone.GOOD),
    "over_limit": ("over its limit", Tone.BAD),
    "warned": ("over its limit, warned", Tone.BAD),
    "terminating": ("being ended", Tone.BAD),
    "uninvited": ("not invited", Tone.BAD),
}
_RESOURCES = ("resource", "units", "given", "largest request now", "with the kubelet")

Row = Mapping[str, Any]


def panels(status: Status) -> Sequence[Panel]:
    """Nothing before the first look at the devices."""
    devices: Sequence[Row] = status.get("devices") or ()
    containers: Sequence[Row] = status.get("containers") or ()
    by_device: dict[str, list[Row]] = defaultdict(list)
    for row in containers:
        by_device[str(row.get("device"))].append(row)
    others = {str(one.get("device")): one for one in status.get("device_use") or ()}
    title = "GPUs (SIMULATED: no real device)" if status.get("simulated") else "GPUs"
    problems = [str(problem) for problem in status.get("problems") or ()]
    problems += [f"{name_of(row)}: {row['problem']}" for row in containers if row.get("problem")]
    problems += [f"XID events are not heard of {one}" for one in status.get("unmonitored") or ()]
    tables = (_resources(status), container_tables.acts_table(status))
    found = Panel(
        title,
        [
            _device(one, by_device[str(one["uuid"])], others.get(str(one["uuid"])))
            for one in devices
        ],
        [table for table in tables if table is not None],
        problems,
        ["no NVIDIA GPU on this node"] if status.get("idle") else [],
        _LEGEND if devices else (),
    )
    return [found] if devices or problems or found.notes else []


def _device(device: Row, containers: Sequence[Row], rest: Row | None) -> Item:
    healthy = device.get("health") == "healthy"
    used, whole = device.get("memory_used"), device["memory_total"]
    reserved = device.get("memory_reserved") or 0
    free = None if used is None else max(0, whole - reserved - used)
    return Item(
        _title(device),
        text(device.get("health")),
        Tone.GOOD if healthy else Tone.BAD,
        [
            ("used", f"{_known(used)} of {size(whole)}"),
            ("free", _known(free)),
            *_given(device),
            *_beside(rest or {}),
        ],
        _device_bar(whole, used, reserved, containers),
        items=[_container(row, whole) for row in containers],
    )


def _known(value: int | None) -> str:
    return "unknown" if value is None else size(value)


def _title(device: Row) -> str:
    parts = [f"GPU {device.get('gpu_index')}", device.get("profile") or device.get("model")]
    if device.get("gpu_instance") is not None:
        parts.append(f"gi{device['gpu_instance']}")
    return " ".join(map(text, parts))


def _given(device: Row) -> list[tuple[str, str]]:
    if not (offers := device.get("offers")):
        return [("served by", "no rule")]
    return [
        (
            str(offer.get("resource")).rpartition("/")[2],
            f"{text(offer.get('allocated'))} of {text(offer.get('units'))} units given",
        )
        for offer in offers
    ]


def _beside(rest: Row) -> list[tuple[str, str]]:
    """What no container accounts for."""
    found = []
    if rest.get("host_processes"):
        found.append(("host processes", f"{rest['host_processes']}, {_known(rest.get('host'))}"))
    if rest.get("unknown_processes"):
        found.append(("processes of unknown containers", text(rest["unknown_processes"])))
    if rest.get("unattributed"):
        found.append(("no process accounts for", size(rest["unattributed"])))
    return found


def _device_bar(whole: int, used: int | None, reserved: int, containers: Sequence[Row]) -> Bar:
    """Each container's part is what it uses and what of its request it does not use; the latter
    shrinks where more was given than there is."""
    held = [(row, row.get("used") or 0, _spare(row)) for row in containers]
    theirs = sum(used_by for _, used_by, _ in held)
    # The driver may not tell of one process, and yet tell the sum; or the other way round.
    others = max(0, (used or 0) - theirs)
    room = max(0, whole - reserved - theirs - others)
    spare = sum(kept for _, _, kept in held)
    part = min(1.0, room / spare) if spare else 0.0
    parts = [
        piece
        for row, used_by, kept in held
        for piece in (
            Part(_fill(row), used_by),
            Part(Fill.KEPT if row.get("used") is not None else Fill.UNKNOWN, kept * part),
        )
    ]
    parts.append(Part(Fill.OTHER, others))
    free = Fill.UNKNOWN if used is None else Fill.FREE
    parts += [Part(free, room - spare * part), Part(Fill.RESERVED, reserved)]
    known = "use not known" if used is None else f"{size(used)} used"
    words = f"{known} of {size(whole)}: {size(theirs)} by {len(held)} containers"
    return Bar(whole, parts, f"{words}, {size(others)} by others, {size(reserved)} reserved")


def _spare(row: Row) -> int:
    """What of its request a container does not use, as far as is known."""
    return max(0, (row.get("request") or 0) - (row.get("used") or 0))


def _fill(row: Row) -> Fill:
    return Fill.OVER if row.get("over_limit") or not row.get("resource") else Fill.USED


def _container(row: Row, device_memory: int) -> Item:
    limit, used = row.get("limit"), row.get("used")
    request = row.get("request") or 0
    facts = [
        ("used", _known(used)),
        ("request", size(row.get("request"))),
        ("limit", "none" if limit is None else size(limit)),
    ]
    if (idle := span(row.get("idle_s"))) not in (UNKNOWN, "no"):
        facts.append(("idle for", idle))
    if not row.get("resource"):
        facts.append(("given", "nothing of this device"))
    state, tone = _STATES.get(str(row.get("state")), (text(row.get("state")), Tone.PLAIN))
    return Item(
        name_of(row),
        state,
        tone,
        facts,
        _container_bar(row, used, request, device_memory if limit is None else limit),
    )


def _container_bar(row: Row, used: int | None, request: int, most: int) -> Bar:
    """Of what it may have at most; longer only where it has more."""
    whole = max(most, used or 0, request, 1)
    marks = [float(at) for at in (request, most) if 0 < at < whole]
    if used is None:
        return Bar(whole, [Part(Fill.UNKNOWN, request or whole)], "use not known", marks)
    parts = [Part(_fill(row), used), Part(Fill.KEPT, _spare(row))]
    return Bar(whole, parts, f"uses {used / whole:.0%} of what it may have", marks)


def _resources(status: Status) -> Table | None:
    rows = [
        (
            text(one.get("name")),
            text(one.get("units")),
            text(one.get("units_allocated")),
            text(one.get("largest_free_block")),
            "registered" if one.get("registered") else text(one.get("problem")),
        )
        for one in status.get("resources") or ()
    ]
    return Table("Resources", _RESOURCES, rows) if rows else None
