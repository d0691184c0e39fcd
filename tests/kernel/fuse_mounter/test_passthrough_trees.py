# SPDX-License-Identifier: Apache-2.0
"""The passthrough file system over trees that are large, change below, or are broken inside."""

from __future__ import annotations

import errno
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from agents import fuse, hostfs, mountinfo
from agents.hostfs import PROC
from agents.mounts import LinuxMounts
from tests.fakes.hanging_mount import HangingMounts
from tests.fakes.mount_node import eventually
from tests.fakes.passthrough_mount import Mounted, passthrough

MOST = 100


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted]:
    with passthrough(tmp_path / "below", tmp_path / "at", "--sweep", "0.3") as one:
        yield one


def test_removed_files_are_let_go(mounted: Mounted) -> None:
    """Descriptors do not pile up, whoever removes the files."""
    before = mounted.descriptors()
    for number in range(200):
        (mounted.at / f"above{number}").touch()
        (mounted.below / f"below{number}").touch()
    assert len(list(mounted.at.iterdir())) == 400
    assert mounted.descriptors() > before + 200
    for path in mounted.at.glob("above*"):
        path.unlink()
    for path in mounted.below.glob("below*"):
        path.unlink()
    eventually(lambda: mounted.descriptors() <= before + 5, "descriptors were closed")


def test_a_renamed_file_that_is_removed_below_is_let_go(mounted: Mounted) -> None:
    before = mounted.descriptors()
    for number in range(50):
        (mounted.at / f"new{number}").touch()
        (mounted.at / f"new{number}").rename(mounted.at / f"file{number}")
    for path in mounted.below.iterdir():
        path.unlink()
    eventually(lambda: mounted.descriptors() <= before + 5, "descriptors were closed")


def test_whoever_walks_through_everything_takes_no_descriptors_from_others(tmp_path: Path) -> None:
    """However many files there are: the walk is whole, and what was walked through is let go."""
    below = tmp_path / "below"
    expected = set()
    for directory in range(20):
        (below / str(directory)).mkdir(parents=True)
        for number in range(100):
            (below / str(directory) / str(number)).touch()
            expected.add(f"{directory}/{number}")

    def walk(at: Path) -> set[str]:
        return {str(path.relative_to(at)) for path in at.rglob("*") if path.is_file()}

    options = ("--inodes", str(MOST), "--sweep", "3600")
    with passthrough(below, tmp_path / "at", *options) as one, ThreadPoolExecutor(3) as pool:
        with (one.at / "0" / "0").open("w") as handle:
            assert list(pool.map(walk, [one.at] * 3)) == [expected] * 3
            eventually(lambda: one.descriptors() < 2 * MOST, "descriptors were closed")
            handle.write("an open file is nobody's to let go")
        assert (below / "0" / "0").read_text()


def test_directories_are_let_go_and_whoever_is_in_one_is_left_alone(tmp_path: Path) -> None:
    """The mount stays what it is, too: a read-only one here."""
    expected = {f"{outer}/{inner}" for outer in range(5) for inner in range(100)}
    for path in expected:
        (tmp_path / "below" / path).mkdir(parents=True)
    options = ("--inodes", str(MOST), "--sweep", "3600", "--read-only")
    with passthrough(tmp_path / "below", tmp_path / "at", *options) as one, ExitStack() as stack:
        inside = one.at / "0" / "0"
        LinuxMounts().mount("inside", inside, "tmpfs")
        stack.callback(LinuxMounts().unmount, inside, detach=True)
        (inside / "file").touch()
        (before,) = mountinfo.at(mountinfo.read(PROC), one.at)
        worker = stack.enter_context(
            subprocess.Popen(["/bin/cat"], cwd=one.at / "1" / "1", stdin=subprocess.PIPE)
        )
        found = {str(path.relative_to(one.at)) for path in one.at.glob("*/*")}
        assert found == expected
        eventually(lambda: one.descriptors() < 2 * MOST, "descriptors were closed")
        assert (PROC / str(worker.pid) / "cwd").readlink() == one.at / "1" / "1"
        assert (inside / "file").exists()
        assert mountinfo.at(mountinfo.read(PROC), one.at) == (before,)


def test_a_dead_file_system_inside_is_listed_and_harms_nobody(mounted: Mounted) -> None:
    for name in ("before", "dead", "later"):
        (mounted.below / name).mkdir()
    with ExitStack() as stack:
        device = hostfs.HostFs().fuse_device
        place = mounted.below / "dead"
        connection = fuse.mount(LinuxMounts(), device, place, source="test", subtype="test")
        stack.callback(LinuxMounts().unmount, place, detach=True)
        os.close(connection)
        assert sorted(os.listdir(mounted.at)) == ["before", "dead", "later"]
        with os.scandir(mounted.at) as entries:
            dead = next(entry for entry in entries if entry.name == "dead")
        with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
            dead.stat()
    eventually((mounted.at / "dead").is_dir, "it is a directory again")


def test_who_waits_for_a_hanging_file_system_inside_holds_up_nobody_else(tmp_path: Path) -> None:
    """Not even the server's end: its threads wait, its event loop never does."""
    inside = tmp_path / "below" / "deep" / "hanging"
    inside.mkdir(parents=True)
    with ExitStack() as stack:
        hanging = stack.enter_context(HangingMounts(os.getpid(), str(inside)))
        stack.callback(LinuxMounts().unmount, inside, detach=True)
        with passthrough(tmp_path / "below", tmp_path / "at", "--sweep", "0.1") as one:
            script = (
                "import os, sys\ntry: os.stat(sys.argv[1])\nexcept OSError as e: sys.exit(e.errno)"
            )
            argv = [sys.executable, "-c", script, str(one.at / "deep/hanging")]
            done: queue.Queue[int] = queue.Queue()
            askers = [subprocess.Popen(argv) for _ in range(10)]
            assert hanging.taken.wait(20)

            def work() -> None:
                for number in range(30):
                    (one.at / f"{number}").write_text(str(number))
                    assert (one.below / f"{number}").read_text() == str(number)
                done.put(len(os.listdir(one.at)))

            threading.Thread(target=work, daemon=True).start()
            assert done.get(timeout=20) == 31
            assert [asker.poll() for asker in askers] == [None] * 10
            stack.close()
            assert {asker.wait(20) for asker in askers} <= {0, errno.ENOTCONN, errno.ECONNABORTED}
