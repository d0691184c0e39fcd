# SPDX-License-Identifier: Apache-2.0
"""Whose mounts an agent takes away, where those of another one may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.hostfs import HostFs
from lxcfs_helper.eject import ours

SOURCE = "nodeshare-views:/run/nodeshare/views"
PROC = "21 20 0:21 / /proc rw - proc proc rw"
VIEW = f"30 21 0:50 /id/meminfo /proc/meminfo ro - tmpfs {SOURCE} rw"
OTHERS = "31 21 0:51 /id/stat /proc/stat ro - tmpfs nodeshare-views:/elsewhere rw"
PRESSURE = "32 21 0:30 /pods/id/cpu.pressure /proc/pressure/cpu rw - cgroup2 cgroup2 rw"
SOMEBODYS = "33 21 0:30 /pods/id/cpu.pressure /mnt/cpu rw - cgroup2 cgroup2 rw"


@pytest.mark.parametrize(
    ("lines", "places"),
    [
        pytest.param([PROC], [], id="nothing"),
        pytest.param([PROC, VIEW, PRESSURE], ["/proc/meminfo", "/proc/pressure/cpu"], id="ours"),
        pytest.param([PROC, PRESSURE], ["/proc/pressure/cpu"], id="pressure alone"),
        pytest.param([PROC, OTHERS, PRESSURE], [], id="another agent's"),
        pytest.param(
            [PROC, VIEW, OTHERS, PRESSURE], ["/proc/meminfo", "/proc/pressure/cpu"], id="of both"
        ),
        pytest.param([PROC, SOMEBODYS], [], id="a cgroup's file elsewhere"),
    ],
)
def test_ours(tmp_path: Path, lines: list[str], places: list[str]) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/mountinfo").write_text("\n".join(lines) + "\n")
    found = ours(HostFs(proc=tmp_path), 7, SOURCE)
    assert [entry.mount_point for entry in found] == places


def test_a_process_that_is_gone_has_none(tmp_path: Path) -> None:
    assert ours(HostFs(proc=tmp_path), 7, SOURCE) == ()
