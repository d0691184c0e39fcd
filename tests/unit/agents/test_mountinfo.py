# SPDX-License-Identifier: Apache-2.0
"""Lines as proc_pid_mountinfo(5) describes them, and stacks of mounts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.mountinfo import Watched, at, below, by_place, covering, parse, read

TABLE = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
36 22 0:31 / /srv/data rw,nosuid shared:20 master:1 - fuse.client nodeshare:shared rw,user_id=0
37 36 0:32 / /srv/data rw,nosuid - tmpfs none rw
40 22 0:40 /containers/ab\\040c /run/with\\040space\\134tab\\011 ro - tmpfs tmp\\012fs ro,size=4k
41 22 0:41 / /srv/database rw unbindable - tmpfs none rw
"""


def test_every_field_is_read() -> None:
    entry = parse(TABLE)[1]
    assert (entry.mount_id, entry.parent_id, entry.device) == (36, 22, (0, 31))
    assert (entry.root, entry.mount_point) == ("/", "/srv/data")
    assert (entry.shared, entry.master) == (20, 1)
    assert (entry.fstype, entry.source) == ("fuse.client", "nodeshare:shared")
    assert entry.options == {"rw", "nosuid"}
    assert entry.super_options == {"rw", "user_id=0"}
    assert not entry.read_only


def test_escaped_characters_come_back() -> None:
    entry = parse(TABLE)[3]
    assert entry.mount_point == "/run/with space\\tab\t"
    assert entry.root == "/containers/ab c"
    assert entry.source == "tmp\nfs"
    assert entry.read_only


@pytest.mark.parametrize("character", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\r"])
def test_a_name_can_hold_what_ends_a_line_elsewhere(character: str, tmp_path: Path) -> None:
    line = f"36 22 0:31 / /srv/a{character}b rw - tmpfs none rw\n"
    (tmp_path / "7").mkdir()
    (tmp_path / "7/mountinfo").write_bytes(line.encode())
    assert [entry.mount_point for entry in read(tmp_path, 7)] == [f"/srv/a{character}b"]


def test_stack_is_bottom_first() -> None:
    assert [entry.mount_id for entry in at(parse(TABLE), Path("/srv/data"))] == [36, 37]


@pytest.mark.parametrize("hidden_first", [True, False])
def test_mounts_hidden_by_another_are_not_in_the_stack(hidden_first: bool) -> None:
    """A folder of a shared mount, bound onto itself: what is mounted there appears below it too."""
    hidden = (
        "50 30 0:50 / /tmp/root/x ro shared:7 - tmpfs anchor ro\n"
        "52 50 0:51 / /tmp/root/x rw shared:8 - fuse one rw\n"
    )
    visible = (
        "51 31 0:50 / /tmp/root/x ro shared:7 - tmpfs anchor ro\n"
        "53 51 0:51 / /tmp/root/x rw shared:8 - fuse one rw\n"
    )
    around = (
        "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
        "30 22 0:30 / /tmp rw shared:9 - tmpfs tmp rw\n"
        "31 30 0:30 /root /tmp/root rw shared:9 - tmpfs tmp rw\n"
    )
    table = parse(around + (hidden + visible if hidden_first else visible + hidden))
    assert [entry.mount_id for entry in at(table, "/tmp/root/x")] == [51, 53]
    assert [entry.mount_id for entry in by_place(table)["/tmp/root/x"]] == [51, 53]
    top = covering(table, "/tmp/root/x/file")
    assert top is not None
    assert top.mount_id == 53


def test_below_stops_at_the_name() -> None:
    found = [entry.mount_id for entry in below(parse(TABLE), "/srv/data/")]
    assert found == [36, 37], "/srv/database is another name"


def test_covering_is_the_topmost_that_holds_the_path() -> None:
    table = parse(TABLE)
    cases = {"/srv/data/x": 37, "/srv/dat": 22, "/srv/database": 41, "/": 22}
    for path, mount_id in cases.items():
        found = covering(table, path)
        assert found is not None, path
        assert found.mount_id == mount_id, path


@given(st.integers(0, len(TABLE)))
def test_a_table_cut_short_never_raises(length: int) -> None:
    assert len(parse(TABLE[:length])) <= 5


def test_watched_mounts_are_taken_apart_only_when_they_changed(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    file = tmp_path / "self" / "mountinfo"
    file.write_text(TABLE)
    watched = Watched(tmp_path)
    first = watched.read()
    assert first == parse(TABLE)
    assert watched.read() is first
    file.write_text(TABLE.replace("37 36 0:32 / /srv/data rw", "37 36 0:32 / /srv/data ro"))
    assert [entry.read_only for entry in at(watched.read(), "/srv/data")] == [False, True]


def test_by_place_holds_what_at_needs() -> None:
    table = parse(TABLE)
    places = by_place(table)
    assert set(places) == {entry.mount_point for entry in table}
    assert at(places["/srv/data"], "/srv/data") == at(table, "/srv/data")


@pytest.mark.processes
def test_a_process_that_has_ended_has_no_mounts() -> None:
    """Of one that nobody has reaped yet the kernel says EINVAL, of all errors."""
    with subprocess.Popen(["true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ProcessLookupError):
            read(Path("/proc"), ended.pid)
