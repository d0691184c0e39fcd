# SPDX-License-Identifier: Apache-2.0
"""Who uses what of which device: processes that the driver lists, joined to the containers that
they run in and to what those were given. Values and pure joining; knows no procfs, cgroup file
system, NVML or socket (`process_origins` and `container_index` look).

A container is known by its cgroup, which an unprivileged process cannot leave; what it was given by
an allocation directory that one of its processes has mounted. Memory is in bytes; what the driver
could not tell is None, never 0.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from agents.container_cgroups import ContainerCgroup, Outside, Place
from agents.processes import ProcessKey
from gpu_plugin.devices import GpuProcess, ProcessKind
from gpu_plugin.readings import Reading, Readings

#: Of proc(5): `start_ticks` counts these.
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
#: Of a process in several lists, that of the first.
_KINDS = tuple(ProcessKind)


@dataclass(frozen=True, slots=True, order=True)
class ContainerKey:
    """A container of this node. `pod_uid` in the form of the API server (with dashes where it has
    some); None: its cgroup names no pod (docker, podman).
    """

    pod_uid: str | None
    container_id: str


@dataclass(frozen=True, slots=True)
class ContainerNames:
    """What people call it, from podresources and CRI; labels and annotations from CRI alone.
    `siblings` are the names of all containers of its pod (empty: not known).
    """

    namespace: str
    pod: str
    container: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    siblings: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class GpuUse:
    """One process on one device (a GPU outside MIG, or a slice). `used` None: not available.

    `command` is the name of its program (`comm`), for the container's own eyes and the log.
    `utilisation` is its part of the device's time since the scan before, 0 to 1 (None: not told).
    """

    process: ProcessKey
    device: str
    used: int | None
    kind: ProcessKind
    command: str = ""
    utilisation: float | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """The part of one device that a container was given: `request` is units x bytes of a unit."""

    allocation: str
    resource: str
    device: str
    units: int
    request: int


@dataclass(frozen=True, slots=True)
class GpuContainer:
    """A container with an allocation, or with processes on a device, or with both.

    `cgroup` is its own cgroup from the root of the hierarchy (v2, else v1's memory controller), as
    the host sees it. `names` None: nobody could tell. `main` is its first process (None: unknown).
    Without `grants` its processes are *uninvited*.
    """

    key: ContainerKey
    cgroup: str
    names: ContainerNames | None = None
    main: ProcessKey | None = None
    grants: tuple[Grant, ...] = ()
    uses: tuple[GpuUse, ...] = ()

    @property
    def uninvited(self) -> bool:
        """Uses a device that it was not given."""
        given = {grant.device for grant in self.grants}
        return any(use.device not in given for use in self.uses)

    def request(self, device: str) -> int:
        """Bytes that it was given of a device; 0: nothing."""
        return sum(grant.request for grant in self.grants if grant.device == device)

    def used(self, device: str) -> int | None:
        """Bytes that all its processes hold of a device; None: of one of them it is not known."""
        held = [use.used for use in self.uses if use.device == device]
        return None if None in held else sum(one for one in held if one is not None)


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """A device as a whole, as the driver told it in this scan. `unattributed` is what it says is
    used less what it says of processes (None: one of both is not known).
    `age_s` is how many seconds before the scan the driver was asked.
    """

    device: str
    total: int
    free: int | None
    used: int | None
    unattributed: int | None
    utilisation: float | None = None
    age_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Accounting:
    """One scan. `at` is on the monotonic clock, in seconds, `wall` seconds of the epoch.

    `devices` holds those that answered, and only those: of the others nothing is known, and nothing
    is done. `host` are processes of no container. `unknown` are those whose container could not
    be told (ended meanwhile, unreadable, or a container that no rule of ours recognises), or of
    which it is not known what it was given: they are counted, and never touched. The start time of
    one that could not be read is 0. `doubts` say in words what does not fit together.
    """

    at: float
    wall: float
    devices: Mapping[str, DeviceUse] = field(default_factory=dict)
    containers: tuple[GpuContainer, ...] = ()
    host: tuple[GpuUse, ...] = ()
    unknown: tuple[GpuUse, ...] = ()
    doubts: tuple[str, ...] = ()


#: Before the first scan.
EMPTY = Accounting(at=0.0, wall=0.0)


@dataclass(frozen=True, slots=True)
class Origin:
    """A process and where it is."""

    key: ProcessKey
    place: Place
    command: str = ""


@dataclass(frozen=True, slots=True)
class KnownContainer:
    """What is known of a container besides its processes on devices. `grants` None: none of its
    processes let anybody look, so it is not known what it was given.
    """

    cgroup: ContainerCgroup
    grants: tuple[Grant, ...] | None = ()
    names: ContainerNames | None = None
    main: ProcessKey | None = None


def account(
    readings: Readings,
    origins: Mapping[int, Origin],
    known: Iterable[KnownContainer],
    *,
    at: float,
    wall: float,
    after_boot: float,
    doubts: tuple[str, ...] = (),
) -> Accounting:
    """Join what the driver told with who its processes are (`origins`, by pid) and what containers
    were given. `after_boot` is now on the clock of the readings, in seconds. Containers with
    processes that `known` lacks have not been looked at: nothing is known of them.
    """
    by_cgroup = {one.cgroup: one for one in known}
    uses: dict[ContainerCgroup, list[GpuUse]] = {}
    host: list[GpuUse] = []
    unknown: list[GpuUse] = []
    devices: dict[str, DeviceUse] = {}
    for uuid, reading in sorted(readings.items()):
        if reading.processes is None:
            continue
        placed = list(_uses(reading, reading.processes, origins))
        age_s = max(0.0, after_boot - reading.asked_at)
        devices[uuid] = _device_use(reading, (use for use, _ in placed), age_s)
        for use, place in placed:
            if place is Outside.HOST:
                host.append(use)
            elif place is Outside.UNKNOWN or not _is_known(by_cgroup.get(place)):
                unknown.append(use)
            else:
                uses.setdefault(place, []).append(use)
    containers = [
        GpuContainer(
            ContainerKey(one.cgroup.pod_uid, one.cgroup.container_id),
            one.cgroup.path,
            one.names,
            one.main,
            one.grants or (),
            tuple(uses.get(one.cgroup, ())),
        )
        for one in by_cgroup.values()
        if one.grants or one.cgroup in uses
    ]
    return Accounting(
        at,
        wall,
        devices,
        tuple(sorted(containers, key=lambda one: (one.key.pod_uid or "", one.key.container_id))),
        tuple(host),
        tuple(unknown),
        doubts,
    )


def _is_known(container: KnownContainer | None) -> bool:
    return container is not None and container.grants is not None


def _uses(
    reading: Reading, processes: Iterable[GpuProcess], origins: Mapping[int, Origin]
) -> Iterator[tuple[GpuUse, Place]]:
    """Each process once, by pid, and where it is. One that computes and draws is in two lists, with
    the same memory in both; where they differ (they were read one after the other) the larger
    number counts. One that started after the driver was asked only has the pid of one that was
    listed, which has ended.
    """
    latest = reading.asked_at * _TICKS_A_SECOND
    by_pid: dict[int, list[GpuProcess]] = {}
    for process in processes:
        by_pid.setdefault(process.pid, []).append(process)
    for pid, entries in sorted(by_pid.items()):
        told = [entry.used for entry in entries if entry.used is not None]
        parts = [entry.utilisation for entry in entries if entry.utilisation is not None]
        origin = origins.get(pid)
        if origin is None or origin.key.start_ticks > latest:
            origin = Origin(ProcessKey(pid, 0), Outside.UNKNOWN)
        use = GpuUse(
            origin.key,
            reading.device,
            max(told, default=None),
            min((entry.kind for entry in entries), key=_KINDS.index),
            origin.command,
            max(parts, default=None),
        )
        yield use, origin.place


def _device_use(reading: Reading, uses: Iterable[GpuUse], age_s: float) -> DeviceUse:
    memory, told = reading.memory, [use.used for use in uses]
    unattributed = (
        None if None in told else max(0, memory.used - sum(one for one in told if one is not None))
    )
    return DeviceUse(
        reading.device,
        memory.total,
        memory.free,
        memory.used,
        unattributed,
        reading.utilisation,
        age_s,
    )
