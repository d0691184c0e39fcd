# SPDX-License-Identifier: Apache-2.0
"""`nodeshare mounts show`: all that is known of one mount, as tables, from the agent's own status
document and what the kernel says of its mount and its client. Pure; a value that is not known, or
that an agent of another version does not tell, is shown as such.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agents.agent import Status
from agents.mountinfo import MountEntry
from agents.tables import Table, size, text
from fuse_mounter import attached

Mount = Mapping[str, Any]
#: The anchor was bare, the kernel had no BENEATH, …: how it came to where pods see it.
_WAYS = {
    "first": "there was nothing in its place",
    "beneath": "slipped beneath the one before, without a gap",
    "over": "over the one before (this kernel cannot slip one beneath)",
    "detach": "after the one before was taken away (this kernel cannot slip one beneath)",
    "adopted": "by an agent before this one",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What this node shows beside the document: the topmost mount that pods see, and the command
    line of the client, as everybody on the node can read it. None and empty: there is none.
    """

    top: MountEntry | None = None
    command: Sequence[str] = ()


def document(mount: Mount, status: Status, seen: Seen) -> dict[str, Any]:
    """The same for a program."""
    return {
        **mount,
        "root": status.get("root"),
        "client_command": list(seen.command),
        "mounted": _mounted(seen.top),
        "breaker": status.get("breakers", {}).get(mount.get("server")),
        "pods": list(_pods(mount["name"], status)),
    }


def tables(mount: Mount, status: Status, seen: Seen) -> Sequence[Table]:
    """For people."""
    everything = (
        Table(f"Mount {mount['name']}", ("what", "value"), list(_rows(mount, status, seen))),
        Table("Last changes", ("time", "state", "cause"), list(_history(mount))),
        Table("Last probes", ("time", "answer", "took"), list(_probes(mount))),
        Table("Published also", ("path", "folder", "state"), list(_shared(mount))),
        *attached.tables(list(_pods(mount["name"], status))),
        Table("What its client or the kernel tells", ("value of", "is"), list(_told(mount))),
    )
    return [table for table in everything if table.rows]


def _rows(mount: Mount, status: Status, seen: Seen) -> Iterator[tuple[str, str]]:
    yield "state", _state(mount)
    yield "driver", mount["driver"]
    yield "source", text(mount.get("source"))
    yield "server", _server(mount, status)
    yield "pods see it at", f"{status.get('root')}/{mount['path']}"
    yield "published", text(_WAYS.get(str(mount.get("published_by")), mount.get("published_by")))
    yield "layers", text(mount.get("layers"))
    yield "mounted as", text(_mounted(seen.top))
    yield "staging", text(mount.get("staging"))
    yield "client", _client(mount, seen)
    yield "requests waiting", text(mount.get("waiting"))
    sign = mount.get("sign") or {}
    yield "suspicion", text(sign.get("suspicion"))
    yield "last good probe", _time(mount.get("last_ok"))
    yield "space", _space(mount.get("space") or {})
    yield "recoveries", _counts(mount.get("recoveries") or {})
    yield "last gap", _seconds(mount.get("last_gap_s"))
    yield "connections aborted", text(mount.get("aborts"))
    yield "preflight failures", text(mount.get("preflight_failures"))


def _state(mount: Mount) -> str:
    drained = " (drained)" if mount.get("drained") else ""
    cause = f": {mount['cause']}" if mount["cause"] else ""
    return f"{mount['state']}{drained} since {_time(mount.get('since'))}{cause}"


def _server(mount: Mount, status: Status) -> str:
    server = mount.get("server")
    failures = status.get("breakers", {}).get(server)
    waits = f"; it is waited for, after {failures} failures in a row" if failures else ""
    return f"{text(server)}{waits}"


def _mounted(top: MountEntry | None) -> str | None:
    if top is None:
        return None
    options = ",".join(sorted(top.options | top.super_options))
    return f"{top.fstype} {top.source} {options}"


def _client(mount: Mount, seen: Seen) -> str:
    pid = mount.get("client_pid")
    if pid is None:
        return "-"
    return f"pid {pid}: {shlex.join(seen.command)}" if seen.command else f"pid {pid}"


def _space(space: Mapping[str, Any]) -> str:
    if not space.get("size"):
        return "-"
    inodes = f", {space['inodes_free']} of {space['inodes']} inodes" if space.get("inodes") else ""
    return f"{size(space['available'])} of {size(space['size'])} available{inodes}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()) if count) or "0"


def _history(mount: Mount) -> Iterator[tuple[str, str, str]]:
    for one in mount.get("history", ()):
        yield _time(one["at"]), one["state"], text(one["cause"])


def _probes(mount: Mount) -> Iterator[tuple[str, str, str]]:
    for one in mount.get("probes", ()):
        yield _time(one["at"]), one["health"], _seconds(one["seconds"])


def _shared(mount: Mount) -> Iterator[tuple[str, str, str]]:
    for one in mount.get("shared", ()):
        state = "published" if one["published"] else text(one["problem"] or "not yet")
        kind = ", read-only" if one["read_only"] else ""
        yield one["path"], text(one["folder"]), f"{state}{kind}"


def _pods(name: str, status: Status) -> Iterator[Mapping[str, Any]]:
    """Those that have it: each volume by itself, reduced to what is of this mount."""
    for pod in status.get("pods", ()):
        for volume in pod["volumes"]:
            views = [one for one in volume["mounts"] if one["mount"] == name]
            if views:
                yield {**pod, "volumes": [{**volume, "mounts": views}]}


def _told(mount: Mount) -> Iterable[tuple[str, str]]:
    """Measurements, one name a line: an operation that was never used has none."""
    sign = mount.get("sign") or {}
    rows = []
    for one in sign.get("measurements", ()):
        labels = ",".join(value for _, value in one["labels"])
        rows.append((f"{one['name']} {labels}".strip(), f"{one['value']:g}"))
    return rows


def _seconds(value: object) -> str:
    return f"{value:.3f} s" if isinstance(value, int | float) else "-"


def _time(at: object) -> str:
    """In UTC, as the log has it."""
    if not isinstance(at, int | float) or not at:
        return "-"
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}Z"
