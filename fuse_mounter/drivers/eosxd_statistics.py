# SPDX-License-Identifier: Apache-2.0
"""What the statistics say that eosxd rewrites about once a second (`jsonstats`). Pure.

Keys as of EOS 5. Values may be missing or of another kind in other versions: those are left out.
Numbers whose unit their name does not tell are left out too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from fuse_mounter.drivers.base import Measurement, Sign

#: Ten times what it takes between two writes.
OLD_S = 10.0
#: The client and its server exchange one about every ten seconds.
NO_HEARTBEAT_S = 30.0
#: An operation that holds a file for so long is stuck, or waits for what is.
BLOCKED_S = 10.0

_AGE = "Time since eosxd wrote its statistics."

#: Section, key, name of the metric, kind, factor to base units, help.
_NUMBERS: tuple[tuple[str, str, str, str, float, str], ...] = (
    ("stats", "last-heartbeat-secs", "heartbeat_age_seconds", "gauge", 1,
     "Time since the last heartbeat between eosxd and its server."),
    ("stats", "blocked-ops", "blocked_operations", "gauge", 1,
     "Operations that wait for another one."),
    ("stats", "max-inode-lock-ms", "inode_lock_seconds", "gauge", 0.001,
     "How long the oldest lock on a file has been held."),
    ("stats", "threads", "threads", "gauge", 1, "Threads of eosxd."),
    ("stats", "uptime", "uptime_seconds", "gauge", 1, "How long eosxd has been running."),
    ("stats", "total-rbytes", "read_bytes", "counter", 1, "Bytes read."),
    ("stats", "total-wbytes", "written_bytes", "counter", 1, "Bytes written."),
    ("stats", "total-io-ops", "io_operations", "counter", 1, "Reads and writes."),
    ("stats", "xoffs", "buffer_waits", "counter", 1,
     "How often a write had to wait for a free buffer."),
    ("stats", "ra-xoff", "read_ahead_waits", "counter", 1,
     "How often reading ahead had to wait for a free buffer."),
    ("inodes", "ever", "inodes_seen", "counter", 1, "Files and directories ever met."),
    ("inodes", "everdeleted", "inodes_deleted", "counter", 1, "Files and directories deleted."),
)  # fmt: skip

#: What eosxd keeps of the name space, by the word for it.
_KEPT = (
    "number", "stack", "todelete", "backlog", "open", "vmap", "caps", "tracker", "rhexpired",
    "proxies", "lrureset",
)  # fmt: skip
_INFO = {
    "version": "version", "fuseversion": "fuse_version", "server-version": "server_version",
}  # fmt: skip


def sign(text: str, age_s: float) -> Sign:
    """What a file that was written `age_s` ago tells. Raises ValueError when it is not whole."""
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError("statistics of eosxd are not a JSON object")
    stats = _section(document, "stats")
    measurements = (
        Measurement("eosxd_statistics_age_seconds", _AGE, "gauge", age_s),
        *_numbers(document),
        *_kept(_section(document, "inodes")),
        *_recoveries(document.get("recoveries")),
        *_activity(document.get("activity")),
        _info(stats),
    )
    return Sign("; ".join(_suspicions(stats, age_s)) or None, measurements)


def _suspicions(stats: Mapping[str, Any], age_s: float) -> Iterator[str]:
    if age_s > OLD_S:
        yield f"eosxd wrote its statistics {age_s:.0f} s ago"
    heartbeat = _number(stats.get("last-heartbeat-secs"))
    # Never had one: the number is then the time since 1970.
    if heartbeat is not None and NO_HEARTBEAT_S < heartbeat < 1e9:
        yield f"its server's last heartbeat was {heartbeat + age_s:.0f} s ago"
    blocked, locked = (_number(stats.get(key)) for key in ("blocked-ops", "max-inode-lock-ms"))
    if locked is not None and locked / 1000 > BLOCKED_S:
        by = stats.get("blocker")
        behind = f"; {blocked:.0f} operations wait" if blocked else ""
        yield (
            f"a file has been locked for {locked / 1000:.0f} s"
            + (f" by {by!r}" if isinstance(by, str) and by else "")
            + behind
        )


def _numbers(document: Mapping[str, Any]) -> Iterator[Measurement]:
    for section, key, name, kind, factor, text in _NUMBERS:
        value = _number(_section(document, section).get(key))
        if value is not None:
            metric = f"eosxd_{name}" + ("_total" if kind == "counter" else "")
            assert kind in ("gauge", "counter")
            yield Measurement(
                metric, text, "counter" if kind == "counter" else "gauge", value * factor
            )


def _kept(inodes: Mapping[str, Any]) -> Iterator[Measurement]:
    for key in _KEPT:
        if (value := _number(inodes.get(key))) is not None:
            text = "What eosxd keeps of files and directories, by its own words."
            yield Measurement("eosxd_inodes", text, "gauge", value, (("kind", key),))


def _recoveries(recoveries: Any) -> Iterator[Measurement]:
    """A number, or one for each kind."""
    kinds = recoveries if isinstance(recoveries, dict) else {"all": recoveries}
    for kind, count in kinds.items():
        if (value := _number(count)) is not None:
            text = "Reads and writes that eosxd saved after an error of a server."
            yield Measurement("eosxd_recoveries_total", text, "counter", value, (("kind", kind),))


def _activity(activity: Any) -> Iterator[Measurement]:
    counts: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for one in activity if isinstance(activity, list) else ():
        command = one.get("command") if isinstance(one, dict) else None
        if isinstance(command, str) and command:
            counts[command] = counts.get(command, 0.0) + (_number(one.get("sum")) or 0.0)
            seconds[command] = seconds.get(command, 0.0) + (_number(one.get("cumul(s)")) or 0.0)
    for command, count in counts.items():
        text = "Operations that eosxd was asked for."
        labels = (("operation", command),)
        yield Measurement("eosxd_operations_total", text, "counter", count, labels)
    for command, spent in seconds.items():
        text = "Time that eosxd spent on operations."
        labels = (("operation", command),)
        yield Measurement("eosxd_operation_seconds_total", text, "counter", spent, labels)


def _info(stats: Mapping[str, Any]) -> Measurement:
    labels = tuple((label, str(stats.get(key, ""))) for key, label in _INFO.items())
    return Measurement("eosxd_info", "1, with the versions of eosxd.", "gauge", 1.0, labels)


def _section(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = document.get(name)
    return section if isinstance(section, dict) else {}


def _number(value: Any) -> float | None:
    """Numbers are written as numbers or as texts, depending on the version."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
