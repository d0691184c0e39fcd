# SPDX-License-Identifier: Apache-2.0
"""Which container was given what, from what is mounted where, what was recorded, and what kubelet
and runtime tell. Pure; knows no driver, procfs or socket.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from gpu_plugin.accounting import Grant, KnownContainer
from gpu_plugin.container_index import Holding
from gpu_plugin.container_names import Told
from gpu_plugin.identity import Allocation

#: Bytes of a device; None: no such device is known (any more).
DeviceMemory = Callable[[str], int | None]


@dataclass(frozen=True, slots=True)
class Granted:
    """Containers with what they were given, and what does not fit together, in words."""

    containers: tuple[KnownContainer, ...]
    doubts: tuple[str, ...] = ()


def granted(
    holdings: Iterable[Holding],
    recorded: Mapping[str, Allocation],
    told: Told,
    device_memory: DeviceMemory,
) -> Granted:
    """By allocation directory first; where no process of a container shows one, by what kubelet and
    runtime together say that it holds. An allocation is one container's.
    """
    holdings = sorted(holdings, key=lambda one: one.cgroup)
    carriers: dict[str, list[Holding]] = {}
    for holding in holdings:
        for name in holding.allocations:
            carriers.setdefault(name, []).append(holding)
    owners = {name: _owner(name, claiming, told) for name, claiming in carriers.items()}
    for name, holding in _unseen(holdings, recorded, told):
        owners.setdefault(name, holding)
    names_of: dict[Holding, set[str]] = {holding: set() for holding in holdings}
    for name, owner in owners.items():
        names_of[owner].add(name)
    return Granted(
        tuple(
            KnownContainer(
                holding.cgroup,
                _grants(holding, names, recorded, device_memory),
                told.names(holding.cgroup.container_id, map(_digest, names)),
                holding.main,
            )
            for holding, names in names_of.items()
        ),
        (*_claimed_twice(carriers, owners), *_untold(holdings, recorded)),
    )


def _claimed_twice(
    carriers: Mapping[str, list[Holding]], owners: Mapping[str, Holding]
) -> Iterator[str]:
    for name, claiming in sorted(carriers.items()):
        if len(claiming) > 1:
            others = ", ".join(_short(one) for one in claiming if one != owners[name])
            yield (
                f"allocation {name} is mounted in {len(claiming)} containers: it counts for "
                f"{_short(owners[name])}, and not for {others}"
            )


def _untold(holdings: Iterable[Holding], recorded: Mapping[str, Allocation]) -> Iterator[str]:
    """Whose processes are counted, and left alone."""
    for holding in holdings:
        if holding.refused and not holding.allocations:
            yield (
                f"what container {_short(holding)} was given cannot be told, as none of its "
                "processes may be looked at; run the agent with hostPID and CAP_SYS_PTRACE"
            )
        for name in sorted(holding.allocations - recorded.keys()):
            yield f"what allocation {name} gave to container {_short(holding)} is not recorded"


def _short(holding: Holding) -> str:
    return holding.cgroup.container_id[:12]


def _owner(name: str, claiming: list[Holding], told: Told) -> Holding:
    """Of containers that all carry the very directory (one of them by a volume of the host), that
    of which the kubelet says so, else the one that was there first: the directory was made for it.
    """

    def rank(holding: Holding) -> tuple[bool, float]:
        told_so = _digest(name) in told.holds(holding.cgroup.container_id)
        return not told_so, holding.main.start_ticks if holding.main else float("inf")

    return min(claiming, key=rank)


def _unseen(
    holdings: Iterable[Holding], recorded: Mapping[str, Allocation], told: Told
) -> Iterable[tuple[str, Holding]]:
    """The newest allocation for units that a container holds by name, and shows nothing of."""
    newest: dict[str, Allocation] = {}
    for allocation in recorded.values():
        former = newest.get(allocation.digest)
        if former is None or former.made_at_ns < allocation.made_at_ns:
            newest[allocation.digest] = allocation
    for holding in holdings:
        shown = {_digest(name) for name in holding.allocations}
        for digest in sorted(told.holds(holding.cgroup.container_id) - shown):
            if digest in newest:
                yield newest[digest].name, holding


def _grants(
    holding: Holding,
    names: Iterable[str],
    recorded: Mapping[str, Allocation],
    device_memory: DeviceMemory,
) -> tuple[Grant, ...] | None:
    """None: it is not known what it was given."""
    names = sorted(names)
    if not all(name in recorded for name in names) or not (names or holding.looked):
        return None
    return tuple(grant for name in names for grant in grants_of(recorded[name], device_memory))


def grants_of(allocation: Allocation, device_memory: DeviceMemory) -> tuple[Grant, ...]:
    """What was given, by device. A record that was written anew does not tell what a unit was: then
    what the container was told counts. Where nothing tells, it is the whole device, so that nobody
    can be above it.
    """
    written = _written(allocation)
    found = []
    for device, numbers in sorted(allocation.units.items()):
        hardware = allocation.hardware.get(device)
        if hardware is not None:
            request: int | None = hardware.unit_memory * len(numbers)
        else:
            request = written.get(device, device_memory(device))
        if request is not None:
            found.append(Grant(allocation.name, allocation.resource, device, len(numbers), request))
    return tuple(found)


def _written(allocation: Allocation) -> dict[str, int]:
    """Bytes by device in `share.json`, which the container has had since it was started."""
    try:
        document = json.loads(allocation.files.get("share.json", "{}"))
        return {str(one["uuid"]): int(one["memory_bytes"]) for one in document.get("devices", ())}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def _digest(name: str) -> str:
    return name.partition(".")[0]
