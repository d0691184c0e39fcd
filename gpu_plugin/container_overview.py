# SPDX-License-Identifier: Apache-2.0
"""All containers on all devices after a scan, in rows: for metrics, `/status.json` and tables.
Pure; for the host's eyes, because it names everybody.

Memory is in bytes, None: not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpu_plugin.accounting import Accounting, ContainerKey, GpuContainer, GpuUse
from gpu_plugin.container_activity import Activity, Place
from gpu_plugin.container_events import safe, time_text
from gpu_plugin.container_status import short_name
from gpu_plugin.inventory import Device
from gpu_plugin.verdicts import Act, Backend, Standing, Verdict

#: So many of the last acts are shown.
SHOWN_ACTS = 20
#: Of a container's id, where it has no name: enough to find it (`crictl inspect`).
_SHORT_ID = 12


@dataclass(frozen=True, slots=True)
class ContainerRow:
    """One container on one device. `namespace` and `pod` are empty where nobody could tell them;
    `container` is then the beginning of its id. `resource`: what it was given of the device, empty:
    nothing (it is uninvited there). `limit` None: no limit of ours. `idle_s`: for how long it did
    nothing there (None: it cannot be told). `utilisation` is its own part, 0 to 1.
    """

    namespace: str
    pod: str
    container: str
    pod_uid: str
    id: str
    resource: str
    device: str
    device_name: str
    request: int
    guarantee: int
    limit: int | None
    used: int | None
    processes: int
    over_limit: bool
    idle_s: float | None
    utilisation: float | None
    state: str
    backend: str
    problem: str | None

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.namespace}/{self.pod}/{self.container}" if self.pod else self.container


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """What of a device no container accounts for. `host` is what processes of no container hold
    (None: of one of them it is not known), `unknown_processes` are those whose container could not
    be told.
    """

    device: str
    unattributed: int | None
    host_processes: int
    host: int | None
    unknown_processes: int


@dataclass(frozen=True, slots=True)
class ActRow:
    """One of the last acts, for people. `used` is what the container held of the device, `allowed`
    what it may have there, in bytes.
    """

    at: str
    container: str
    device: str
    action: str
    reason: str
    used: int
    allowed: int
    outcome: str
    text: str


@dataclass(frozen=True, slots=True)
class Overview:
    """After one scan; `wall` in seconds of the epoch, 0: there was none yet."""

    wall: float = 0.0
    containers: tuple[ContainerRow, ...] = ()
    devices: tuple[DeviceRow, ...] = ()
    acts: tuple[ActRow, ...] = field(default=())

    def document(self) -> dict[str, Any]:
        """For `/status.json`."""
        return {
            "containers": [_plain(row) for row in self.containers],
            "device_use": [_plain(row) for row in self.devices],
            "acts": [_plain(row) for row in self.acts],
        }


def _plain(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__slots__}


def overview(
    accounting: Accounting,
    verdicts: Mapping[Place, Verdict],
    activity: Mapping[Place, Activity],
    devices: Mapping[str, Device],
    acts: tuple[ActRow, ...] = (),
) -> Overview:
    """Join what one scan found. Containers are in the order of their names."""
    rows = [
        _row(container, device, accounting, verdicts, activity, devices)
        for container in accounting.containers
        for device in _devices(container)
    ]
    rows.sort(key=lambda row: (row.namespace, row.pod, row.container, row.id, row.device))
    return Overview(
        accounting.wall,
        tuple(rows),
        tuple(_device(accounting, device) for device in accounting.devices),
        acts,
    )


def names_of(container: GpuContainer) -> tuple[str, str, str]:
    """Namespace, pod and container, as `ContainerRow` has them."""
    names = container.names
    if names is None:
        return "", "", container.key.container_id[:_SHORT_ID]
    return safe(names.namespace, 63), safe(names.pod, 253), safe(names.container, 63)


def act_row(act: Act, containers: Mapping[ContainerKey, GpuContainer], device: str) -> ActRow:
    """`device` is its name for people."""
    container = containers.get(act.container)
    named = names_of(container) if container else ("", "", act.container.container_id[:_SHORT_ID])
    process = "" if act.process is None else f"{safe(act.command, 40)} (pid {act.process.pid})"
    return ActRow(
        time_text(act.wall),
        "/".join(part for part in named if part),
        device,
        act.action.value,
        act.reason.value,
        act.used,
        act.allowed,
        act.outcome.value,
        " ".join(part for part in (process, safe(act.explanation or "")) if part),
    )


def _devices(container: GpuContainer) -> list[str]:
    named = [grant.device for grant in container.grants]
    return list(dict.fromkeys([*named, *(use.device for use in container.uses)]))


def _row(
    container: GpuContainer,
    device: str,
    accounting: Accounting,
    verdicts: Mapping[Place, Verdict],
    activity: Mapping[Place, Activity],
    devices: Mapping[str, Device],
) -> ContainerRow:
    place = (container.key, device)
    verdict, active = verdicts.get(place), activity.get(place)
    limits = verdict.limits if verdict else None
    namespace, pod, name = names_of(container)
    request = container.request(device)
    given = sorted({grant.resource for grant in container.grants if grant.device == device})
    answered = device in accounting.devices
    since = active.active_at if active else None
    return ContainerRow(
        namespace=namespace,
        pod=pod,
        container=name,
        pod_uid=container.key.pod_uid or "",
        id=container.key.container_id,
        resource=",".join(given),
        device=device,
        device_name=short_name(device, devices),
        request=request,
        guarantee=limits.guarantee if limits else request,
        limit=limits.limit if limits else request,
        used=container.used(device) if answered else None,
        processes=len({use.process for use in container.uses if use.device == device}),
        over_limit=verdict is not None and verdict.over,
        idle_s=None if since is None else max(0.0, accounting.at - since),
        utilisation=active.utilisation if active else None,
        state=(verdict.standing if verdict else Standing.UNKNOWN).value,
        backend=(verdict.backend if verdict else Backend.NONE).value,
        problem=_problem(verdict),
    )


def _problem(verdict: Verdict | None) -> str | None:
    """With what its pod says of its limit, and with whoever is to hold it to that; where nobody
    can, that is a problem of the node.
    """
    if verdict is None:
        return None
    note = None if verdict.backend is Backend.NONE else verdict.note
    told = [text for text in (verdict.limits.problem, note) if text is not None]
    return safe("; ".join(told)) if told else None


def _device(accounting: Accounting, device: str) -> DeviceRow:
    host = [use for use in accounting.host if use.device == device]
    unknown = {use.process for use in accounting.unknown if use.device == device}
    return DeviceRow(
        device,
        accounting.devices[device].unattributed,
        len({use.process for use in host}),
        _sum(host),
        len(unknown),
    )


def _sum(uses: Iterable[GpuUse]) -> int | None:
    held = [use.used for use in uses]
    return None if None in held else sum(one for one in held if one is not None)
