# SPDX-License-Identifier: Apache-2.0
"""What the statistics of eosxd mean."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import fuse_mounter.drivers
from fuse_mounter.drivers.base import Measurement, Sign
from fuse_mounter.drivers.eosxd_statistics import sign

STATS = {
    "threads": 20,
    "vsize": "336.41 Mb",
    "version": "5.2.24",
    "fuseversion": 39,
    "server-version": "5.2.24",
    "uptime": 7200,
    "total-rbytes": "4096",
    "total-wbytes": 10,
    "total-io-ops": 3,
    "xoffs": 0,
    "ra-xoff": 1,
    "max-inode-lock-ms": 12.5,
    "blocker": "getattr",
    "blocker-origin": "fuse",
    "blocked-ops": 0,
    "last-heartbeat-secs": 2,
}
INODES = {"number": 5, "stack": 1, "caps": 4, "ever": 9, "everdeleted": 2, "strange": "x"}
ACTIVITY = [
    {"command": "getattr", "sum": 12, "5s": 0.1, "exec(ms)": 0.3, "cumul(s)": 1.5},
    {"command": "getattr", "sum": "3", "cumul(s)": "0.5"},
    {"command": "open", "sum": 1},
    "no operation",
]


def told(age_s: float = 0.5, **stats: Any) -> Sign:
    document = {"stats": {**STATS, **stats}, "inodes": INODES, "activity": ACTIVITY}
    return sign(json.dumps({**document, "recoveries": {"read": 2}}), age_s)


def values(one: Sign) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {(m.name, m.labels): m.value for m in one.measurements}
    assert len(found) == len(one.measurements), "each once"
    return found


def test_numbers_come_in_base_units() -> None:
    found = values(told())
    assert found["eosxd_statistics_age_seconds", ()] == 0.5
    assert found["eosxd_heartbeat_age_seconds", ()] == 2
    assert found["eosxd_inode_lock_seconds", ()] == 0.0125
    assert found["eosxd_read_bytes_total", ()] == 4096
    assert found["eosxd_inodes", (("kind", "caps"),)] == 4
    assert found["eosxd_operations_total", (("operation", "getattr"),)] == 15
    assert found["eosxd_operation_seconds_total", (("operation", "getattr"),)] == 2
    assert found["eosxd_recoveries_total", (("kind", "read"),)] == 2
    versions = (("version", "5.2.24"), ("fuse_version", "39"), ("server_version", "5.2.24"))
    assert found["eosxd_info", versions] == 1


@pytest.mark.parametrize(
    ("age_s", "stats", "suspicion"),
    [
        (0.5, {}, None),
        (60, {}, "eosxd wrote its statistics 60 s ago"),
        (1, {"last-heartbeat-secs": 99}, "its server's last heartbeat was 100 s ago"),
        (1, {"last-heartbeat-secs": 1795271873}, None),
        (1, {"blocked-ops": 4}, None),
        (
            1,
            {"blocked-ops": 4, "max-inode-lock-ms": 30_000},
            "a file has been locked for 30 s by 'getattr'; 4 operations wait",
        ),
    ],
    ids=["fine", "old", "no heartbeat", "never had one", "for a moment", "blocked"],
)
def test_a_suspicion_is_in_words(age_s: float, stats: dict[str, Any], suspicion: str) -> None:
    assert told(age_s, **stats).suspicion == suspicion


@pytest.mark.parametrize(
    "text", ["{}", '{"stats": 1, "inodes": [], "activity": {}}', '{"stats": {"threads": "NaN"}}']
)
def test_another_version_may_say_less(text: str) -> None:
    names = {one.name for one in sign(text, 0).measurements}
    assert names == {"eosxd_statistics_age_seconds", "eosxd_info"}


@pytest.mark.parametrize("text", ["", '{"stats": {', "[]"])
def test_half_a_file_is_not_believed(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- of whatever kind, by contract
        sign(text, 0)


def test_the_documentation_lists_these_metrics() -> None:
    text = (Path(fuse_mounter.drivers.__file__).parent / "README.md").read_text()
    listed = re.findall(r"^\| `nodeshare_mount_(eosxd_\w+)` \| (\w+) \| (.+) \|$", text, re.M)
    measured: dict[str, Measurement] = {one.name: one for one in told().measurements}
    assert {name: (kind, words) for name, kind, words in listed} == {
        name: (one.kind, one.help) for name, one in measured.items()
    }
