# SPDX-License-Identifier: Apache-2.0
"""Parse what the kernel counts of NFS mounts: `/proc/<pid>/mountstats`. Pure: text in, values out.

The format is that of fs/nfs/super.c (`nfs_show_stats`) and net/sunrpc (`rpc_clnt_show_stats`, and
`print_stats` of each transport), `statvers` 1.0 and 1.1. Mounts of one server share its transports,
and the numbers of those; everything else is of one file system.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

_OCTAL = re.compile(r"\\([0-7]{3})")
_DEVICE = re.compile(r"device .* mounted on (?P<place>\S*) with fstype nfs4? statvers=1\.[01]")
_LEASE_EXPIRED = re.compile(r"\blease_expired=(\d+)")
#: Which numbers of a transport's line are: connects, seconds idle, sent, received, backlog. What
#: follows differs from kernel to kernel and is not needed.
_PLACES: Mapping[str, tuple[int | None, int | None, int, int, int]] = {
    "tcp": (2, 4, 5, 6, 9),
    "rdma": (2, 4, 5, 6, 9),
    "udp": (None, None, 2, 3, 6),
}


@dataclass(frozen=True, slots=True)
class Transport:
    """One connection to the server. `idle_s`: since it was used last; None: not told. A request
    that was sent twice counts twice in `sent`, and once in `received`. `backlog`: requests that
    waited for a free slot, summed at every one that was sent.
    """

    kind: str
    connects: int
    idle_s: int | None
    sent: int
    received: int
    backlog: int


@dataclass(frozen=True, slots=True)
class Operation:
    """Requests of one kind that came to their end: how many, how often they were sent, how often
    one was given up for longer than its whole time-out, and their seconds in sum: between sending
    and reply, and from begin to end. `errors`: that ended with one; None: not counted (before
    kernel 5.3).
    """

    name: str
    count: int
    sent: int
    timeouts: int
    round_trip_s: float
    total_s: float
    errors: int | None


@dataclass(frozen=True, slots=True)
class Bytes:
    """What programs read and wrote, `O_DIRECT` included, and what came from and went to the server
    for it (the rest was cached)."""

    read: int = 0
    written: int = 0
    from_server: int = 0
    to_server: int = 0


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of one mount. `age_s`: since it was made. `lease_expired_s`: since its lease would have had
    to be renewed (0: it holds); None where no lease is kept while nothing is open (before NFSv4.1).
    `operations` that were used.
    """

    age_s: int
    lease_expired_s: int | None
    bytes: Bytes
    transports: tuple[Transport, ...]
    operations: tuple[Operation, ...]


def by_place(text: str) -> Mapping[str, Sequence[str]]:
    """What is said of each NFS mount, by its mount point: for `parse`. Of several mounts at one
    place, the one that was made last.
    """
    lines = text.split("\n")  # the kernel escapes newlines in names, and nothing else that splits
    heads = [number for number, line in enumerate(lines) if line[:1] not in ("", "\t", " ")]
    found = {}
    for head, end in pairwise([*heads, len(lines)]):
        if match := _DEVICE.fullmatch(lines[head]):
            found[_unescaped(match["place"])] = lines[head + 1 : end]
    return found


def parse(lines: Sequence[str]) -> Statistics:
    """Raises ValueError when it is written in another way than that of the kernels we know."""
    try:
        return _parse(lines)
    except (LookupError, ValueError) as error:
        raise ValueError(f"statistics of NFS cannot be read: {error!r}") from error


def _parse(lines: Sequence[str]) -> Statistics:
    fields = [
        (name, rest.split()) for name, _, rest in (line.strip().partition(":") for line in lines)
    ]
    heading = [name for name, _ in fields].index("per-op statistics")
    values = dict(fields[:heading])
    transports = (_transport(words) for name, words in fields[:heading] if name == "xprt")
    operations = (_operation(name, words) for name, words in fields[heading + 1 :])
    return Statistics(
        age_s=int(values["age"][0]),
        lease_expired_s=_lease_expired(values.get("nfsv4", ())),
        bytes=_bytes(values["bytes"]),
        transports=tuple(one for one in transports if one is not None),
        operations=tuple(one for one in operations if one is not None),
    )


def _lease_expired(words: Sequence[str]) -> int | None:
    said = ",".join(words)
    match = _LEASE_EXPIRED.search(said)
    return int(match[1]) if match and ",sessions," in said else None


def _bytes(words: Sequence[str]) -> Bytes:
    """Of programs (cached, then direct), then of the server; pages after that."""
    read, written, direct_read, direct_written, from_server, to_server = map(int, words[:6])
    return Bytes(read + direct_read, written + direct_written, from_server, to_server)


def _transport(words: Sequence[str]) -> Transport | None:
    """None: of a kind that we do not know."""
    kind, *numbers = words
    places = _PLACES.get(kind)
    if places is None:
        return None
    connects, idle, *rest = (None if one is None else int(numbers[one]) for one in places)
    sent, received, backlog = (one or 0 for one in rest)
    return Transport(kind, connects or 0, idle, sent, received, backlog)


def _operation(name: str, words: Sequence[str]) -> Operation | None:
    """None: it was never used. Milliseconds in the file: waiting to be sent, to the reply, all."""
    if len(words) < 8 or words[0] == "0":
        return None
    count, sent, timeouts, _, _, _, round_trip, total, *errors = map(int, words)
    return Operation(
        name=name,
        count=count,
        sent=sent,
        timeouts=timeouts,
        round_trip_s=round_trip / 1000,
        total_s=total / 1000,
        errors=errors[0] if errors else None,
    )


def _unescaped(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
