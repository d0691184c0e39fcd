# SPDX-License-Identifier: Apache-2.0
"""`nodeshare_gpu_container_…`: each container on each device, over the last scan. Pure.

As text, because there may be thousands of samples (`agents.exposition`). The series of a container
go with it; what is not known has no sample. Where nobody could tell a container's names, namespace
and pod are empty, and the container is the beginning of its id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from prometheus_client import Metric

from agents.exposition import gauge_text, label_text
from agents.metrics import Collect
from gpu_plugin.container_overview import ContainerRow, DeviceRow, Overview

#: A container that did nothing for so long (seconds) holds its memory idle.
IDLE_S = 300.0

_CONTAINER: Mapping[str, tuple[str, Callable[[ContainerRow], float | None]]] = {
    "memory_used_bytes": (
        "Memory that the processes of a container hold; absent while the driver does not tell.",
        lambda row: row.used,
    ),
    "memory_request_bytes": (
        "Memory that a container was given; 0: it uses a device of which it was given nothing.",
        lambda row: row.request,
    ),
    "memory_limit_bytes": (
        "Memory that a container may reach; absent where it has a whole device.",
        lambda row: row.limit,
    ),
    "processes": (
        "Processes of a container on a device.",
        lambda row: row.processes,
    ),
    "over_limit": (
        "1 while a container holds more than its limit.",
        lambda row: int(row.over_limit),
    ),
    "utilisation_ratio": (
        "Part of the device's time that a container used, 0 to 1; absent where it is not told.",
        lambda row: row.utilisation,
    ),
    "idle_seconds": (
        "For how long a container did nothing on a device; absent where it cannot be told.",
        lambda row: None if row.idle_s is None else round(row.idle_s, 3),
    ),
    "idle_memory_bytes": (
        "Memory that a container holds and did nothing with for 5 minutes; absent where it cannot "
        "be told.",
        lambda row: _idle_memory(row),
    ),
}

_DEVICE: Mapping[str, tuple[str, Callable[[DeviceRow], float | None]]] = {
    "memory_unattributed_bytes": (
        "Memory in use that no process accounts for; absent while the driver does not tell.",
        lambda row: row.unattributed,
    ),
    "host_memory_bytes": (
        "Memory that processes of no container hold; they are never touched.",
        lambda row: row.host,
    ),
    "host_processes": (
        "Processes of no container; they are never touched.",
        lambda row: row.host_processes,
    ),
    "unknown_processes": (
        "Processes whose container could not be told; they are never touched.",
        lambda row: row.unknown_processes,
    ),
}


def collecting(overview: Callable[[], Overview], publish: Callable[[str], None]) -> Collect:
    """For a `GuardedCollector`: it has no families of its own, and brings the text up to date."""

    def collect() -> Iterable[Metric]:
        try:
            found = text(overview())
        except Exception:
            publish("")  # what cannot be collected is not there, rather than old
            raise
        publish(found)  # in one step: another scrape may be reading it
        return ()

    return collect


def _idle_memory(row: ContainerRow) -> int | None:
    if row.idle_s is None or row.used is None:
        return None
    return row.used if row.idle_s >= IDLE_S else 0


def text(overview: Overview) -> str:
    """All families, also those that have no sample now."""
    rows = [(_labels(row), row) for row in _distinct(overview.containers)]
    devices = [(label_text({"device": row.device}), row) for row in overview.devices]
    families = [
        gauge_text(
            f"nodeshare_gpu_container_{name}",
            documentation,
            ((labels, v) for labels, row in rows if (v := value(row)) is not None),
        )
        for name, (documentation, value) in _CONTAINER.items()
    ]
    families += [
        gauge_text(
            f"nodeshare_gpu_{name}",
            documentation,
            ((labels, v) for labels, one in devices if (v := of(one)) is not None),
        )
        for name, (documentation, of) in _DEVICE.items()
    ]
    uninvited = sum(not row.resource for row in overview.containers)
    families.append(
        gauge_text(
            "nodeshare_gpu_uninvited_containers",
            "Containers on devices of which they were given nothing.",
            [("", uninvited)],
        )
    )
    return "".join(families)


def _labels(row: ContainerRow) -> str:
    return label_text(
        {
            "namespace": row.namespace,
            "pod": row.pod,
            "container": row.container,
            "resource": row.resource,
            "device": row.device,
        }
    )


def _distinct(rows: Iterable[ContainerRow]) -> list[ContainerRow]:
    """One for each set of labels: a container that was started anew may stand beside its former
    self for a moment, and Prometheus takes no sample twice.
    """
    found: dict[tuple[str, ...], ContainerRow] = {}
    for row in rows:
        key = (row.namespace, row.pod, row.container, row.resource, row.device)
        before = found.get(key)
        found[key] = row if before is None else _both(before, row)
    return list(found.values())


def _both(one: ContainerRow, other: ContainerRow) -> ContainerRow:
    used = None if one.used is None or other.used is None else one.used + other.used
    idle = [row.idle_s for row in (one, other) if row.idle_s is not None]
    return replace(
        other,
        used=used,
        processes=one.processes + other.processes,
        over_limit=one.over_limit or other.over_limit,
        idle_s=min(idle, default=None),
    )
