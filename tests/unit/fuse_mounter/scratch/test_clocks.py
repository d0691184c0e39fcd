# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from agents import mountinfo
from agents.mountinfo import MountEntry
from fuse_mounter.scratch.clocks import Access, access_of, reading
from fuse_mounter.scratch.config import ScratchRule


def entry(options: str, fstype: str = "xfs", super_options: str = "rw") -> MountEntry:
    (found,) = mountinfo.parse(f"1 2 8:1 / /srv {options} - {fstype} /dev/sda {super_options}\n")
    return found


def rule(**keys: object) -> ScratchRule:
    return ScratchRule.model_validate({"directory": "/srv/scratch", "older_than": "30d", **keys})


@pytest.mark.parametrize(
    ("options", "fstype", "super_options", "access"),
    [
        ("rw,relatime", "xfs", "rw", Access.DAILY),
        ("rw", "xfs", "rw", Access.EXACT),
        ("rw,nodiratime", "ext4", "rw", Access.EXACT),
        ("rw,noatime", "ext4", "rw", Access.FROZEN),
        ("rw,relatime", "ext4", "rw,noatime", Access.FROZEN),
        ("rw,relatime", "nfs4", "rw,vers=4.2", Access.CACHED),
        ("rw,noatime", "nfs4", "rw", Access.FROZEN),
        ("rw,relatime", "fuse.eosxd", "rw", Access.CACHED),
        ("rw,relatime", "lustre", "rw", Access.CACHED),
    ],
)
def test_what_an_access_time_is_worth(
    options: str, fstype: str, super_options: str, access: Access
) -> None:
    assert access_of(entry(options, fstype, super_options)) is access


@pytest.mark.parametrize("fstype", ["xfs", "nfs4", "fuse.nodeshare"])
@pytest.mark.parametrize(
    "keys",
    [
        {"older_than": "2d"},
        {"sizes": [{"at_least": "1GiB", "older_than": "2d"}]},
        {"paths": [{"path": "tmp", "older_than": "71h"}]},
        {"keep_free": {"target": "10%", "not_within": "1d"}},
    ],
)
def test_under_three_days_with_relatime_is_refused(fstype: str, keys: dict[str, object]) -> None:
    found = reading(rule(**keys), entry("rw,relatime", fstype))
    assert found.problem is not None
    assert "are less than 3 on a file system mounted with relatime" in found.problem
    assert "clock: modified" in found.problem
    assert reading(rule(**keys, clock="modified"), entry("rw,relatime", fstype)).problem is None
    assert reading(rule(**keys), entry("rw", fstype)).problem is None


def test_three_days_and_never_are_long_enough() -> None:
    keeps = rule(older_than="3d", paths=[{"path": "a", "older_than": "never"}])
    assert reading(keeps, entry("rw,relatime")).problem is None


def test_what_was_tried_counts_more_than_what_the_table_says() -> None:
    assert (
        "reading a file there moved nothing"
        in reading(rule(), entry("rw,relatime"), Access.FROZEN).text
    )
    assert reading(rule(older_than="2d"), entry("rw"), Access.DAILY).problem is not None
    assert reading(rule(older_than="2d"), entry("rw"), Access.EXACT).problem is None
    assert "moved nothing" not in reading(rule(), entry("rw,noatime"), Access.FROZEN).text


@pytest.mark.parametrize(
    ("clock", "options", "words"),
    [
        ("used", "rw", "whichever is later"),
        ("used", "rw,relatime", "up to a day late"),
        ("used", "rw,noatime", "notes no access"),
        ("modified", "rw", "the last modification"),
        ("changed", "rw", "change of status"),
    ],
)
def test_the_clock_is_named(clock: str, options: str, words: str) -> None:
    assert words in reading(rule(clock=clock), entry(options)).text
