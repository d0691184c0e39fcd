# SPDX-License-Identifier: Apache-2.0
"""Which limits the driver is to hold whom to, and whether what it tells is that. Pure; knows no
NVML.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gpu_plugin.accounting import Accounting
from gpu_plugin.devices import MemoryLimits
from gpu_plugin.enforcement import AllLimits
from gpu_plugin.enforcement_cases import Place

#: NVML rounds limits down to what it manages memory in: 30,000 MiB have been seen as 29,184. Up at
#: most to a few of the pages that CUDA takes memory in (2 MiB).
_ROUNDED_DOWN, _ROUNDED_UP = 16, 32 << 20


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """A cgroup (an absolute directory) on a device (by UUID)."""

    device: str
    cgroup: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """Limits of one container on one device, in bytes."""

    place: Place
    cgroup: str
    soft: int
    hard: int

    @property
    def target(self) -> Target:
        return Target(self.place[1], self.cgroup)

    @property
    def limits(self) -> MemoryLimits:
        return MemoryLimits(soft=self.soft or None, hard=self.hard)

    def is_set(self, found: MemoryLimits) -> bool:
        """Both, as far as rounding goes."""
        return _about(found.hard, self.hard) and (
            not self.soft or _about(found.soft, self.soft) or (found.soft or 0) > self.soft
        )

    def in_force(self, found: MemoryLimits) -> bool:
        """It cannot get more than its limit. Memory that it took before the limit came is not
        taken back: then the limit does not hold yet.
        """
        if found.hard is None or not _about(found.hard, self.hard):
            return False
        return found.used is None or found.used <= max(self.hard, found.hard)


def _about(found: int | None, wanted: int) -> bool:
    lowest = wanted - wanted // _ROUNDED_DOWN
    return found is not None and lowest <= found <= wanted + _ROUNDED_UP


def wanted_of(accounting: Accounting, limits: AllLimits, cgroup_root: Path) -> list[Wanted]:
    """For every container with a share and a limit, on the devices that answered."""
    return [
        Wanted(
            (container.key, uuid),
            f"{cgroup_root}{container.cgroup}",
            found.guarantee,
            found.limit,
        )
        for container in accounting.containers
        for uuid, found in limits.get(container.key, {}).items()
        if uuid in accounting.devices and found.limit and found.request
    ]
