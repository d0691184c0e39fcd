# SPDX-License-Identifier: Apache-2.0
"""What the kernel's statistics tell of an NFS mount: whether its server seems to be silent, and
measurements. Reads `/proc/self/mountstats` alone, which never hangs; compares each reading with the
one before.

Requests that wait are not counted by operation before they end, so silence shows in the transports:
something was sent, and no reply came between two readings.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agents.hostfs import HostFs
from fuse_mounter.drivers import nfs_statistics
from fuse_mounter.drivers.base import Measurement, Sign
from fuse_mounter.drivers.nfs_statistics import Statistics, Transport

#: So long without a reply, and the server is suspected.
SILENT_S = 1.0
#: The kernel renews a lease when two thirds of it are over; later than this, and it cannot.
LATE_LEASE_S = 5
#: One reading serves all mounts that are asked for at the same time.
_SAME_S = 0.5


@dataclass(frozen=True, slots=True)
class Memory:
    """What the next reading is compared with. `base`: requests without a reply when the last reply
    had come: some of them never get one, such as those whose caller was killed, and answers to what
    the server asked. `out`: those that were sent since; `silent_since`: and since when.
    """

    connects: int
    received: int
    base: int
    out: int = 0
    silent_since: float | None = None


def remember(before: Memory | None, transports: Sequence[Transport], now: float) -> Memory:
    """After one more reading, at `now` on any steady clock. Pure."""
    connects = sum(one.connects for one in transports)
    received = sum(one.received for one in transports)
    unanswered = sum(one.sent - one.received for one in transports)
    if before is None or (connects, received) != (before.connects, before.received):
        return Memory(connects, received, unanswered)
    out = max(0, unanswered - before.base)
    since = now if before.silent_since is None else before.silent_since
    return replace(before, out=out, silent_since=since if out else None)


def suspicion(memory: Memory, statistics: Statistics, now: float) -> str | None:
    """Why the server may not answer, in words. Pure."""
    if memory.silent_since is not None and now - memory.silent_since >= SILENT_S:
        silent = now - memory.silent_since
        return f"{memory.out} requests are out, and its server has not replied for {silent:.0f} s"
    late = statistics.lease_expired_s or 0
    if late > LATE_LEASE_S:
        return f"its server has not renewed the lease, which ended {late} s ago"
    return None


class Observer:
    """Remembers the last reading of each mount, by its mount point."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._read_at = float("-inf")
        self._sections: Mapping[str, Sequence[str]] = {}
        self._memories: dict[str, Memory] = {}

    def sign(self, place: Path, host: HostFs) -> Sign | None:
        """Of the NFS mount at this place; None: there is none. Raises OSError, ValueError."""
        now, name = self._clock(), str(place)
        if now - self._read_at >= _SAME_S:
            text = os.fsdecode((host.proc / "self" / "mountstats").read_bytes())
            self._sections, self._read_at = nfs_statistics.by_place(text), now
            self._memories = {n: m for n, m in self._memories.items() if n in self._sections}
        if name not in self._sections:
            return None
        found = nfs_statistics.parse(self._sections[name])
        memory = remember(self._memories.get(name), found.transports, now)
        self._memories[name] = memory
        return Sign(suspicion(memory, found, now), tuple(measurements(found, memory)))


def measurements(found: Statistics, memory: Memory) -> Iterator[Measurement]:
    """Of one mount. Only of operations that were used, of which NFSv4.2 has about sixty. Pure."""
    yield _gauge(
        "nfs_requests_out", "Requests that were sent since its server's last reply.", memory.out
    )
    yield _counter(
        "nfs_connections",
        "How often its server's transports were connected.",
        memory.connects,
    )
    yield _counter(
        "nfs_backlog",
        "Requests that waited for a free slot, summed at every request that is sent to its server.",
        sum(one.backlog for one in found.transports),
    )
    operations = found.operations
    yield _counter(
        "nfs_retransmissions",
        "Requests that were sent once more, as no reply had come.",
        sum(max(0, one.sent - one.count) for one in operations),
    )
    yield _counter(
        "nfs_timeouts",
        "Requests that found no reply within their whole time-out (and went on, if hard).",
        sum(one.timeouts for one in operations),
    )
    yield from _bytes(found)
    for operation in operations:
        labels = (("operation", operation.name),)
        yield _counter("nfs_operations", "Requests that have ended.", operation.count, *labels)
        yield _counter(
            "nfs_operation_seconds",
            "Time that requests took from begin to end, in all.",
            operation.total_s,
            *labels,
        )
        yield _counter(
            "nfs_round_trip_seconds",
            "Time from sending a request to its reply, in all.",
            operation.round_trip_s,
            *labels,
        )
        if operation.errors is not None:
            text = "Requests that ended with an error."
            yield _counter("nfs_operation_errors", text, operation.errors, *labels)


def _bytes(found: Statistics) -> Iterator[Measurement]:
    moved = found.bytes
    for side, direction, value in (
        ("program", "read", moved.read),
        ("program", "written", moved.written),
        ("server", "read", moved.from_server),
        ("server", "written", moved.to_server),
    ):
        text = "Bytes that programs read and wrote, and that were asked of or sent to the server."
        labels = (("side", side), ("direction", direction))
        yield _counter("nfs_bytes", text, value, *labels)


def _counter(name: str, text: str, value: float, *labels: tuple[str, str]) -> Measurement:
    return Measurement(name, text, "counter", value, labels)


def _gauge(name: str, text: str, value: float) -> Measurement:
    return Measurement(name, text, "gauge", value)
