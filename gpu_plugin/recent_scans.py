# SPDX-License-Identifier: Apache-2.0
"""Scans for people: a device that missed a round or two (a slow driver) is shown as it was a moment
ago, rather than as unknown. Pure. Not for decisions: those take each scan as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from gpu_plugin.accounting import Accounting, ContainerKey, DeviceUse, GpuContainer, GpuUse
from gpu_plugin.container_activity import Place
from gpu_plugin.verdicts import Verdict

#: Seconds for which what a device told last is still shown.
KEPT_S = 5.0


@dataclass(frozen=True, slots=True)
class _Told:
    """What a scan told of one device. `containers` have what they hold of it alone."""

    use: DeviceUse
    containers: tuple[GpuContainer, ...]
    host: tuple[GpuUse, ...]
    unknown: tuple[GpuUse, ...]
    verdicts: Mapping[Place, Verdict]


class RecentScans:
    """Remembers what each device told last."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[Accounting, Mapping[Place, Verdict]]] = {}

    def joined(
        self, accounting: Accounting, verdicts: Mapping[Place, Verdict]
    ) -> tuple[Accounting, Mapping[Place, Verdict]]:
        """The scan, with what the devices that are missing in it told lately."""
        self._last |= dict.fromkeys(accounting.devices, (accounting, verdicts))
        self._last = {
            device: last
            for device, last in self._last.items()
            if accounting.at - last[0].at <= KEPT_S
        }
        missing = [
            _told(*last, device)
            for device, last in self._last.items()
            if device not in accounting.devices
        ]
        if not missing:
            return accounting, verdicts
        containers = {one.key: one for one in accounting.containers}
        for told in missing:
            for one in told.containers:
                _add(containers, one)
        return (
            replace(
                accounting,
                devices={**accounting.devices, **{one.use.device: one.use for one in missing}},
                containers=tuple(containers.values()),
                host=(*accounting.host, *(use for one in missing for use in one.host)),
                unknown=(*accounting.unknown, *(use for one in missing for use in one.unknown)),
            ),
            {**verdicts, **{k: v for one in missing for k, v in one.verdicts.items()}},
        )


def _add(containers: dict[ContainerKey, GpuContainer], former: GpuContainer) -> None:
    now = containers.get(former.key)
    containers[former.key] = former if now is None else replace(now, uses=(*now.uses, *former.uses))


def _told(accounting: Accounting, verdicts: Mapping[Place, Verdict], device: str) -> _Told:
    containers = (
        replace(one, uses=_on(device, one.uses))
        for one in accounting.containers
        if any(each.device == device for each in one.uses)
    )
    return _Told(
        accounting.devices[device],
        tuple(containers),
        _on(device, accounting.host),
        _on(device, accounting.unknown),
        {place: one for place, one in verdicts.items() if place[1] == device},
    )


def _on(device: str, uses: Iterable[GpuUse]) -> tuple[GpuUse, ...]:
    return tuple(use for use in uses if use.device == device)
