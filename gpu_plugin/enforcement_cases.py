# SPDX-License-Identifier: Apache-2.0
"""What `enforcement` works with: a container on a device as one scan shows it, and the case that is
open about it. Values; decide nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from agents.processes import ProcessKey
from gpu_plugin.accounting import ContainerKey, DeviceUse, GpuContainer
from gpu_plugin.process_choice import Holder, freed
from gpu_plugin.resources import size_text
from gpu_plugin.verdicts import Backend, Limits, Reason

#: A container on a device (by UUID).
Place = tuple[ContainerKey, str]
_ON_NO_GROUND = ": nothing is done on that ground"


@dataclass(frozen=True, slots=True)
class Mark:
    """A process that was asked to end, when (monotonic seconds) and why. `killed`: SIGKILL too."""

    process: ProcessKey
    at: float
    reason: Reason
    killed: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """`over_s` and `pressed_s` are the seconds that it was seen over its limit, and above its
    request under pressure; `calm_s` those since it was neither. `over` and `pressed`: at the last
    look. `warned` for which reasons; `ended`: processes of it were asked to end.
    """

    over_s: float = 0.0
    pressed_s: float = 0.0
    calm_s: float = 0.0
    over: bool = False
    pressed: bool = False
    warned: frozenset[Reason] = frozenset()
    ended: bool = False
    marks: tuple[Mark, ...] = ()


NEW = Case()


@dataclass(frozen=True, slots=True)
class Row:
    """A container on a device. `used` None: not known of all its processes; `known` is what it
    holds at least. `doubt` says why what the driver tells of it cannot be (None: it can).
    """

    key: ContainerKey
    device: str
    limits: Limits
    backend: Backend
    holders: tuple[Holder, ...]
    used: int | None
    known: int
    uninvited: bool
    doubt: str | None

    @property
    def place(self) -> Place:
        return self.key, self.device

    @property
    def over_limit(self) -> int:
        """Bytes."""
        return 0 if self.limits.limit is None else max(0, self.known - self.limits.limit)

    @property
    def above_request(self) -> int:
        """Bytes."""
        return max(0, self.known - self.limits.request)

    @property
    def everything(self) -> int:
        """More than it can hold."""
        return sys.maxsize

    def reason(self, case: Case, *, due: bool) -> Reason:
        """Why it is acted on, when it is; `due`: over its limit for longer than the grace."""
        if self.uninvited:
            return Reason.UNINVITED
        if case.over and (due or not case.pressed):
            return Reason.OVER_LIMIT
        return Reason.PRESSURE

    def allowed(self, reason: Reason) -> int:
        """What it may have, in the light of the reason."""
        if reason is Reason.PRESSURE or self.limits.limit is None:
            return self.limits.request
        return self.limits.limit


def in_doubt(rows: Sequence[Row], device: DeviceUse, *, stale: bool) -> list[Row]:
    """The containers of one device, all in doubt when the driver's answer is too old (`stale`), or
    when together they hold more than there is: which of them is told wrongly nobody knows.
    """
    told, doubt = sum(row.known for row in rows), None
    if stale:
        doubt = f"the driver took {device.age_s:.0f} s to say what it holds"
    elif told > device.total:
        doubt = (
            f"the driver says that containers hold {size_text(told)} of {size_text(device.total)}"
        )
    if doubt is None:
        return list(rows)
    return [replace(row, doubt=row.doubt or f"{doubt}{_ON_NO_GROUND}") for row in rows]


def row_of(container: GpuContainer, device: DeviceUse, limits: Limits, backend: Backend) -> Row:
    """What a scan tells of it."""
    holders = tuple(
        Holder(use.process, use.used, use.process == container.main, use.command)
        for use in container.uses
        if use.device == device.device
    )
    known = freed(holders)
    doubt = None
    if known > device.total:
        doubt = (
            f"the driver says that it holds {size_text(known)} of {size_text(device.total)}"
            f"{_ON_NO_GROUND}"
        )
    return Row(
        key=container.key,
        device=device.device,
        limits=limits,
        backend=backend,
        holders=holders,
        used=container.used(device.device),
        known=known,
        uninvited=bool(holders) and not container.request(device.device),
        doubt=doubt,
    )
