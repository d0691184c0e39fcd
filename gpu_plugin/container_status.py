# SPDX-License-Identifier: Apache-2.0
"""What a container is shown of its own GPU memory, as values; `container_page` makes files of it.
Pure.

It shows the container itself and totals of the card. A neighbour's name, program or process never
comes here. Memory is in bytes; None: not known. Times are seconds of the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from agents.processes import ProcessKey
from gpu_plugin.accounting import DeviceUse, GpuContainer
from gpu_plugin.container_events import safe
from gpu_plugin.inventory import Device
from gpu_plugin.verdicts import Backend, Standing, Verdict


@dataclass(frozen=True, slots=True)
class Part:
    """Units of one resource on a device."""

    name: str
    units: int


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One device of a container, as `status.json` has it.

    `limit_bytes` None: no limit of ours. `utilisation` (0 to 1) is that of the whole card, by
    whomever; `own_utilisation` this container's part, where the driver tells. `active_at` is when
    it was last seen to do something (None: it cannot be told). `enforced_by`: driver, terminate or
    none.
    """

    uuid: str
    name: str
    model: str
    resources: tuple[Part, ...]
    request_bytes: int
    guarantee_bytes: int
    limit_bytes: int | None
    used_bytes: int | None
    left_bytes: int | None
    free_bytes: int | None
    total_bytes: int | None
    utilisation: float | None
    own_utilisation: float | None
    active_at: int | None
    state: str
    pressure: bool
    grace_left_s: float | None
    enforced_by: str
    at_limit: str
    limit_source: str
    problem: str | None


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """A process of the container. `pid` as the container numbers it; None: not known."""

    pid: int | None
    program: str
    device: str
    kind: str
    used_bytes: int | None


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    """Everything that the files say, but for when they were written and the events."""

    simulated: bool
    devices: tuple[DeviceRow, ...]
    processes: tuple[ProcessRow, ...]

    @property
    def without_load(self) -> ContainerStatus:
        """But for how busy it is, which never stands still."""
        rows = (
            replace(row, utilisation=None, own_utilisation=None, active_at=None)
            for row in self.devices
        )
        return replace(self, devices=tuple(rows))


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is known beside the container: devices by UUID, how the container numbers its processes,
    and, by device, when it was last active and how busy it keeps it.
    """

    devices: Mapping[str, Device]
    simulated: bool = False
    pids: Mapping[ProcessKey, int] | None = None
    active_at: Mapping[str, float | None] | None = None
    own_utilisation: Mapping[str, float | None] | None = None


def status_of(
    container: GpuContainer,
    uses: Mapping[str, DeviceUse],
    verdicts: Mapping[str, Verdict],
    around: Surroundings,
) -> ContainerStatus:
    """Join what is known of a container; `uses` and `verdicts` are by device, and may lack some."""
    named = [grant.device for grant in container.grants] + [use.device for use in container.uses]
    order = {uuid: place for place, uuid in enumerate(around.devices)}
    uuids = sorted(set(named), key=lambda uuid: (order.get(uuid, len(order)), uuid))
    return ContainerStatus(
        around.simulated,
        tuple(_row(container, u, uses.get(u), verdicts.get(u), around) for u in uuids),
        tuple(
            ProcessRow(
                pid=(around.pids or {}).get(use.process),
                program=safe(use.command, 40) or "?",
                device=short_name(use.device, around.devices),
                kind=use.kind.value,
                used_bytes=use.used,
            )
            for use in sorted(container.uses, key=lambda use: (-(use.used or 0), use.process))
        ),
    )


def short_name(uuid: str, devices: Mapping[str, Device]) -> str:
    """Of a device, for people: `GPU 0`, `GPU 2 1g.10gb gi9`."""
    device = devices.get(uuid)
    return uuid if device is None else device.name


def _row(
    container: GpuContainer,
    uuid: str,
    use: DeviceUse | None,
    verdict: Verdict | None,
    around: Surroundings,
) -> DeviceRow:
    device = around.devices.get(uuid)
    parts: dict[str, int] = {}
    for grant in container.grants:
        if grant.device == uuid:
            parts[grant.resource] = parts.get(grant.resource, 0) + grant.units
    request = container.request(uuid)
    limits = None if verdict is None else verdict.limits
    limit = request if limits is None else limits.limit
    # Of a device that does not answer, what was last heard of its processes says nothing.
    used = None if use is None else container.used(uuid)
    free = None if use is None else use.free
    usable = None if device is None else device.memory_total - device.memory_reserved
    return DeviceRow(
        uuid=uuid,
        name=short_name(uuid, around.devices),
        model=safe(device.model, 60) if device else "",
        resources=tuple(Part(name, units) for name, units in parts.items()),
        request_bytes=request,
        guarantee_bytes=request if limits is None else limits.guarantee,
        limit_bytes=limit,
        used_bytes=used,
        left_bytes=_left(limit, used, free),
        free_bytes=free,
        total_bytes=usable if usable is not None else (use.total if use else None),
        utilisation=use.utilisation if use else None,
        own_utilisation=(around.own_utilisation or {}).get(uuid),
        active_at=_whole((around.active_at or {}).get(uuid)),
        state=(Standing.UNKNOWN if verdict is None else verdict.standing).value,
        pressure=verdict is not None and verdict.pressure,
        grace_left_s=None if verdict is None else verdict.grace_left_s,
        enforced_by=(Backend.NONE if verdict is None else verdict.backend).value,
        at_limit=safe(verdict.at_limit) if verdict else "",
        limit_source=safe(limits.source) if limits else "",
        problem=safe(limits.problem) if limits and limits.problem else None,
    )


def _left(limit: int | None, used: int | None, free: int | None) -> int | None:
    if used is None or free is None:
        return None
    return free if limit is None else max(0, min(limit - used, free))


def _whole(at: float | None) -> int | None:
    return None if at is None else int(at)
