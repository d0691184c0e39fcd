# SPDX-License-Identifier: Apache-2.0
"""A tmpfs that is full costs what is new, is told, and is gone on with as soon as there is room."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.cgroups import LinuxCgroups
from agents.containers import Container, Pod
from agents.hostfs import PROC
from agents.mounts import LinuxMounts, MountFlag
from lxcfs_helper import files as files_module
from lxcfs_helper.config import ViewConfig
from lxcfs_helper.coverage import Coverage
from lxcfs_helper.covered import Failure
from lxcfs_helper.files import ViewFiles
from tests.fakes.recorded_hosts import PID, host_fs, recorded

ID = "3f1c9a5e7b2d4f60819a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f70"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ViewFiles]:
    """With room for hardly anything."""
    monkeypatch.setattr(files_module, "_OPTIONS", "mode=0755,size=8k")
    made = ViewFiles(tmp_path / "views", LinuxMounts(), PROC)
    made.mount()
    try:
        yield made
    finally:
        made.unmount()


def test_room_that_comes_back_is_used(tmp_path: Path, files: ViewFiles) -> None:
    tree = tmp_path / "host"
    shutil.copytree(recorded("v2-nested").proc.parent, tree)
    (tree / "proc" / str(PID) / "stat").write_text(f"{PID} (x) S{' 0' * 18} 500 0\n")
    now = 1000.0
    host = host_fs(tree)
    coverage = Coverage(ViewConfig(), host, LinuxCgroups(host), files, lambda: now)
    coverage.observe([Container(ID, "main", Pod("ada", "jupyter", "uid"), PID)])
    coverage.refresh()
    (one,) = coverage.all()
    assert one.failure is Failure.WRITE
    assert "No space left on device; the tmpfs of the views is full" in one.views()["meminfo"]
    assert not [*files.directory.glob("*/.*.new")], "nothing unfinished takes up the room"

    LinuxMounts().mount("none", files.directory, "tmpfs", MountFlag.REMOUNT, "size=16m")
    now += coverage.next_look_s()
    coverage.refresh()
    assert one.reason == ""
    assert (files.read(ID, "meminfo") or b"").startswith(b"MemTotal:")
    coverage.close()
