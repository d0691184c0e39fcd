# SPDX-License-Identifier: Apache-2.0
"""/proc/diskstats of a container: what it read and wrote itself, on the devices it used. Pure.

Whole devices only, as cgroups count; devices that it never used are not its to know. Requests are
those that reached the block layer. Merged requests, times and queue lengths are counted by no
cgroup: zero.
"""

from __future__ import annotations

from lxcfs_helper.facts import ContainerFacts, HostFacts
from lxcfs_helper.views.view import Told

_SECTOR = 512
#: Digits of four large and thirteen small numbers, so that a line keeps its length.
_WIDTH = 120


def render(host: HostFacts, container: ContainerFacts) -> bytes:
    """The whole file; as long as before while no device comes along."""
    rows = []
    for (major, minor), counts in sorted((container.io or {}).items()):
        name = host.disks.get((major, minor))
        if name is None:
            continue
        # reads merged sectors ms | writes merged sectors ms | in flight, ms, weighted ms |
        # discards merged sectors ms | flushes ms
        numbers = (
            f"{counts.reads} 0 {counts.read_bytes // _SECTOR} 0 "
            f"{counts.writes} 0 {counts.written_bytes // _SECTOR} 0 "
            f"0 0 0 {counts.discards} 0 {counts.discarded_bytes // _SECTOR} 0 0 0"
        )
        rows.append(f"{major:4d} {minor:7d} {name} {numbers:<{_WIDTH}}\n")
    return "".join(rows).encode(errors="surrogateescape")


def unknown(host: HostFacts, container: ContainerFacts) -> tuple[str, ...]:
    """Everything where nothing is counted; devices that the host does not name."""
    if container.io is None:
        return ("all",)
    return ("unnamed device",) if container.io.keys() - host.disks else ()


def explain(host: HostFacts, container: ContainerFacts) -> tuple[Told, ...]:
    """Four numbers of each device."""
    if container.io is None:
        return (Told("all", "empty", None, "rule", "nothing counts its input and output"),)
    of_host = {row[2]: row for row in map(str.split, host.texts.get("diskstats", "").splitlines())}
    rows = []
    for device, counts in sorted(container.io.items()):
        name = host.disks.get(device)
        if name is None:
            what = "{}:{}".format(*device)
            rows.append(Told(what, "absent", None, "rule", "the host does not name this device"))
            continue
        values = (
            counts.reads,
            counts.read_bytes // _SECTOR,
            counts.writes,
            counts.written_bytes // _SECTOR,
        )
        columns = _V1_TOLD if container.limits.swap_with_memory else _V2_TOLD
        for value, (what, column, origin, formula) in zip(values, columns, strict=True):
            theirs = of_host[name][column] if name in of_host else None
            rows.append(Told(f"{name} {what}", str(value), theirs, origin, formula))
    return tuple(rows)


#: What it is called, its column in diskstats, the file and the formula.
_V2_TOLD = (
    ("reads", 3, "io.stat", "rios"),
    ("sectors read", 5, "io.stat", "rbytes / 512"),
    ("writes", 7, "io.stat", "wios"),
    ("sectors written", 9, "io.stat", "wbytes / 512"),
)
_V1_TOLD = (
    ("reads", 3, "blkio.*.io_serviced_recursive", "Read"),
    ("sectors read", 5, "blkio.*.io_service_bytes_recursive", "Read / 512"),
    ("writes", 7, "blkio.*.io_serviced_recursive", "Write"),
    ("sectors written", 9, "blkio.*.io_service_bytes_recursive", "Write / 512"),
)
