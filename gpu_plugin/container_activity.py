# SPDX-License-Identifier: Apache-2.0
"""Since when a container does nothing on a device that it holds memory of, for whoever ends idle
notebooks. Pure; the clock is that of the scans (monotonic seconds).

Active is a container in a scan in which the driver says that it computed since the scan before, or
in which its processes or their memory changed. What the driver says is its own part where it is
told by process; else that of the whole device, while nobody but this container is on it. Where
neither is told (MIG slices; a shared GPU with an old driver) a job with constant memory cannot be
told from an idle one, and nothing is claimed. A container without a process on the device is idle
for certain. The clock of each begins when this agent first sees it: an agent that has just started
takes nobody for idle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agents.processes import ProcessKey
from gpu_plugin.accounting import Accounting, ContainerKey, DeviceUse, GpuContainer

#: A container on a device.
Place = tuple[ContainerKey, str]


@dataclass(frozen=True, slots=True)
class Activity:
    """`active_at` is the scan in which it was last active (None: it cannot be told). `utilisation`
    is its own part of the device's time, 0 to 1 (None: not told).
    """

    active_at: float | None
    utilisation: float | None


@dataclass(frozen=True, slots=True)
class _Seen:
    held: frozenset[tuple[ProcessKey, int | None]]
    changed_at: float


class ActivityClock:
    """Remembers what each container held in the scan before, and since when it is idle."""

    def __init__(self) -> None:
        self._seen: dict[Place, _Seen] = {}

    def look(self, accounting: Accounting) -> dict[Place, Activity]:
        """Of all containers on all devices that answered; of the others it stays as it was."""
        found: dict[Place, Activity] = {}
        seen: dict[Place, _Seen] = {}
        alone = _alone(accounting)
        for container in accounting.containers:
            for device in _devices(container):
                place = (container.key, device)
                use = accounting.devices.get(device)
                before = self._seen.get(place)
                if use is None:
                    if before is not None:
                        seen[place] = before
                    continue
                own = _own(container, use, alone.get(device))
                seen[place] = now = _now(container, device, own, before, accounting.at)
                idle_is_told = own is not None or not now.held
                found[place] = Activity(now.changed_at if idle_is_told else None, own)
        self._seen = seen
        return found


def _devices(container: GpuContainer) -> list[str]:
    grants = [grant.device for grant in container.grants]
    return list(dict.fromkeys([*grants, *(use.device for use in container.uses)]))


def _now(
    container: GpuContainer, device: str, own: float | None, before: _Seen | None, at: float
) -> _Seen:
    held = frozenset((use.process, use.used) for use in container.uses if use.device == device)
    if before is None or before.held != held or own:
        return _Seen(held, at)
    return before


def _alone(accounting: Accounting) -> Mapping[str, ContainerKey]:
    """Devices on which all processes are of one container."""
    users: dict[str, set[ContainerKey | None]] = {}
    for container in accounting.containers:
        for use in container.uses:
            users.setdefault(use.device, set()).add(container.key)
    for use in (*accounting.host, *accounting.unknown):
        users.setdefault(use.device, set()).add(None)
    found = {}
    for device, keys in users.items():
        (first, *others) = keys
        if first is not None and not others:
            found[device] = first
    return found


def _own(container: GpuContainer, use: DeviceUse, alone: ContainerKey | None) -> float | None:
    parts = [one.utilisation for one in container.uses if one.device == use.device]
    told = [part for part in parts if part is not None]
    if parts and len(told) == len(parts):
        return min(1.0, sum(told))
    if alone == container.key:
        return use.utilisation
    return None
