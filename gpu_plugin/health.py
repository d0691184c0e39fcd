# SPDX-License-Identifier: Apache-2.0
"""Which devices must get no new work, why, and when they may again. Pure; knows no NVML, no rule
and no unit.

An ailment has a scope: a GPU with everything on it, or one of its slices. It is over when a look at
the machine found the device well (where one is needed: see `Ailment.after`), and then so many
probes in a row were clean. Nothing of it outlives the process: what the driver still says after a
restart (a lost GPU, a demanded reset, a device that does not answer) is found again by the first
look.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from gpu_plugin.devices import Gpu, Machine, XidEvent
from gpu_plugin.health_config import HealthConfig
from gpu_plugin.inventory import Device
from gpu_plugin.xids import KNOWN, XidClass


@dataclass(frozen=True, slots=True)
class Scope:
    """A GPU; one GPU instance of it; one compute instance of that."""

    gpu: str
    gpu_instance: int | None = None
    compute_instance: int | None = None

    def covers(self, device: Device) -> bool:
        return self.gpu == device.gpu_uuid and (
            self.gpu_instance is None
            or (
                self.gpu_instance == device.gpu_instance
                and self.compute_instance in (None, device.compute_instance)
            )
        )

    def is_on(self, gpu: Gpu) -> bool:
        """Whether there still is such a part of the GPU."""
        return self.gpu_instance is None or any(
            self.gpu_instance == each.gpu_instance
            and self.compute_instance in (None, each.compute_instance)
            for each in gpu.slices
        )


class Cause(enum.Enum):
    """Where an ailment comes from."""

    LOST = "lost"
    XID = "xid"
    DEMAND = "demand"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Ailment:
    """`after`: a look at the machine, in a session of the driver later than this one, must first
    find the GPU well (None: it did, or need not). `clean`: good probes in a row since.
    """

    text: str
    after: int | None = None
    clean: int = 0


#: Any look will do.
_ANY_SESSION = 0

_Key = tuple[Scope, Cause, int]


class Health:
    """All ailments of this machine. Of one thread."""

    def __init__(self, config: HealthConfig) -> None:
        self._config = config
        self._ailments: dict[_Key, Ailment] = {}

    def heard(self, event: XidEvent) -> XidClass:
        """The driver reported an error; what class it is of."""
        kind = self._config.class_of(event.xid)
        if kind is not XidClass.APPLICATION:
            scope = Scope(event.uuid, event.gpu_instance, event.compute_instance)
            after = event.session if kind is XidClass.FATAL else None
            self._ailments[scope, Cause.XID, event.xid] = Ailment(xid_text(event.xid), after)
        return kind

    def looked(self, machine: Machine) -> None:
        """What a look at the whole machine found."""
        gpus = {gpu.uuid: gpu for gpu in machine.gpus}
        for key, ailment in tuple(self._ailments.items()):
            gpu = gpus.get(key[0].gpu)
            if gpu is None:
                continue
            if not key[0].is_on(gpu):
                del self._ailments[key]  # the slice is gone; one made in its place is another
            elif ailment.after is not None and ailment.after < machine.session:
                self._ailments[key] = replace(ailment, after=None, clean=0)
        for uuid, cause, text in _found_ill(machine):
            if cause is Cause.DEMAND and not self._config.heed_demands:
                continue
            self._ailments[Scope(uuid), cause, 0] = Ailment(text, _ANY_SESSION)

    def probed(self, answers: Mapping[Device, str | None]) -> None:
        """Devices of one GPU that were just asked, and why each did not answer (None: it did)."""
        for device, problem in answers.items():
            if problem is not None:
                scope = Scope(device.gpu_uuid, device.gpu_instance, device.compute_instance)
                self._ailments[scope, Cause.SILENT, 0] = Ailment(f"does not answer: {problem}")
        for key, ailment in tuple(self._ailments.items()):
            concerned = [answers[device] for device in answers if key[0].covers(device)]
            if any(problem is not None for problem in concerned):
                self._ailments[key] = replace(ailment, clean=0)
            elif concerned and ailment.after is None:
                self._cleaner(key, ailment)

    def verdict(self, device: Device) -> str | None:
        """Why no unit of this device may be given out; None: all may."""
        mine = [(key, each) for key, each in self._ailments.items() if key[0].covers(device)]
        order = list(Cause)
        for _, ailment in sorted(mine, key=lambda entry: order.index(entry[0][1])):
            return ailment.text if ailment.clean == 0 else f"{ailment.text}; recovering"
        return None

    @property
    def is_well(self) -> bool:
        """Whether there is nothing against any device."""
        return not self._ailments

    @property
    def wants_reopening(self) -> bool:
        """Whether only a new session with the driver can tell that something is well again."""
        return any(
            ailment.after is not None and key[1] in (Cause.LOST, Cause.XID)
            for key, ailment in self._ailments.items()
        )

    def _cleaner(self, key: _Key, ailment: Ailment) -> None:
        clean = ailment.clean + 1
        if clean < self._config.recover_after:
            self._ailments[key] = replace(ailment, clean=clean)
        else:
            del self._ailments[key]


def xid_text(code: int) -> str:
    """`XID 79 (the GPU has fallen off the bus)`."""
    return f"XID {code} ({KNOWN[code].text})" if code in KNOWN else f"XID {code}"


def _found_ill(machine: Machine) -> Iterator[tuple[str, Cause, str]]:
    for lost in machine.lost:
        if lost.uuid is not None:
            # To open the driver anew helps no GPU that hangs, and takes from the others.
            cause = Cause.SILENT if lost.hangs else Cause.LOST
            yield lost.uuid, cause, f"lost: {lost.reason}"
    for gpu in machine.gpus:
        if gpu.demand is not None:
            yield gpu.uuid, Cause.DEMAND, f"the driver asks for {gpu.demand}"
