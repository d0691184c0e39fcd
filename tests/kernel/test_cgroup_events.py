# SPDX-License-Identifier: Apache-2.0
"""What the kernel tells of real cgroups, and of reads in other mount namespaces."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from agents.cgroup_events import CgroupChanges, CgroupEvents, hierarchies
from agents.cgroup_tree import Branch, Directories
from agents.hostfs import CGROUP, HostFs
from lxcfs_helper.demand import WatchedDemand
from tests.fakes.real_container import LIMITS_AVAILABLE, eventually, remove_cgroup

pytestmark = pytest.mark.skipif(not LIMITS_AVAILABLE, reason="no memory and cpu controllers here")
ROOT = hierarchies(CGROUP)[0]


@pytest.fixture
def parent() -> Iterator[str]:
    """A cgroup of our own in the first hierarchy; gone at the end."""
    name = f"nodeshare-test-{secrets.token_hex(6)}"
    (ROOT / name).mkdir()
    try:
        yield name
    finally:
        for directory in (*sorted((ROOT / name).glob("*/"), reverse=True), ROOT / name):
            eventually(partial(remove_cgroup, directory), "an empty cgroup")


@asynccontextmanager
async def watched(parent: str) -> AsyncIterator[CgroupEvents]:
    """Events from now on."""
    events = CgroupEvents(HostFs())
    events.start()
    try:
        yield events
    finally:
        events.close()


async def told(events: CgroupEvents, parent: str) -> CgroupChanges:
    """The next that is about our cgroup: others go on meanwhile."""

    def ours(paths: frozenset[str]) -> frozenset[str]:
        return frozenset(path for path in paths if path.startswith(f"/{parent}"))

    with trio.fail_after(5):
        while True:
            all_ = await events.changes()
            mine = CgroupChanges(ours(all_.created), ours(all_.removed), ours(all_.limited))
            if mine != CgroupChanges():
                return mine


async def test_cgroups_that_come_and_go_are_told_at_any_depth(parent: str) -> None:
    async with watched(parent) as events:
        inner = ROOT / parent / "pod" / "container"
        inner.mkdir(parents=True)
        assert (await told(events, parent)).created == {
            f"/{parent}/pod",
            f"/{parent}/pod/container",
        }
        inner.rmdir()
        assert (await told(events, parent)).removed == {f"/{parent}/pod/container"}
        (ROOT / parent / "pod").rmdir()
        assert (await told(events, parent)).removed == {f"/{parent}/pod"}


async def test_nothing_is_kept_of_cgroups_that_are_gone(parent: str, soak: bool) -> None:
    async with watched(parent) as events:
        for number in range(200 if soak else 20):
            directory = ROOT / parent / f"c{number}"
            directory.mkdir()
            await told(events, parent)
            inode = directory.stat().st_ino
            assert inode in watched_inodes()
            directory.rmdir()
            await told(events, parent)
            assert inode not in watched_inodes()


def watched_inodes() -> set[int]:
    """By all inotify instances of this process."""
    texts = [path.read_text() for path in Path("/proc/self/fdinfo").iterdir() if path.exists()]
    return {
        int(line.split()[2].removeprefix("ino:"), 16)
        for text in texts
        for line in text.splitlines()
        if line.startswith("inotify wd:")
    }


async def test_limits_that_others_set_are_told_and_nothing_else_that_they_write(
    parent: str,
) -> None:
    name = "memory.max" if ROOT == CGROUP else "memory.limit_in_bytes"
    container = ROOT / parent / "container"
    container.mkdir()
    async with watched(parent) as events:
        if (container / name).exists():
            # Another process, through a mount of its own.
            script = f"echo {64 << 20} > {container / name}"
            await trio.run_process(["unshare", "-m", "sh", "-c", script])
            changes = await told(events, parent)
            assert changes.limited == {f"/{parent}/container"}
            assert changes.limits(f"/{parent}/container")
            assert changes.limits(f"/{parent}/container/below")
            assert not changes.limits(f"/{parent}/container2")
        with subprocess.Popen(["sleep", "60"]) as child:
            (container / "cgroup.procs").write_text(str(child.pid))
            child.kill()
        (ROOT / parent / "last").mkdir()
        assert await told(events, parent) == CgroupChanges(frozenset({f"/{parent}/last"}))


async def test_when_too_much_happened_everything_is_watched_anew(parent: str) -> None:
    name = "memory.max" if ROOT == CGROUP else "memory.limit_in_bytes"
    files = [ROOT / parent / inner / name for inner in ("a", "b")]
    for file in files:
        file.parent.mkdir()
    if not files[0].exists():
        pytest.skip("no memory controller there")
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    async with watched(parent) as events:
        gone = files[0].parent.stat().st_ino
        for number in range(most + 10):  # the same event twice in a row would be one
            files[number % 2].write_text(str(64 << 20))
        files[0].parent.rmdir()
        (ROOT / parent / "new").mkdir()
        with trio.fail_after(5):
            while not (changes := await events.changes()).lost:
                pass
        assert changes.limits("/any")
        assert gone not in watched_inodes()
        (ROOT / parent / "new/inner").mkdir()
        assert (await told(events, parent)).created == {f"/{parent}/new/inner"}
        (ROOT / parent / "new/inner").rmdir()


async def test_a_cgroup_that_is_made_again_is_read_again(parent: str) -> None:
    own = ROOT / parent / "own"
    directories = Directories()
    (directory, *_) = chain = directories.acquire(Branch(1, ROOT, f"/{parent}/own"))
    own.mkdir()
    assert directory.raw("cgroup.procs") == b""
    own.rmdir()
    assert directory.raw("cgroup.procs") is None
    own.mkdir()
    assert directory.raw("cgroup.procs") == b""
    directories.release(chain)


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A directory with a file, which a process sees over its /proc/uptime; and its pid."""
    directory = tmp_path / "container"
    directory.mkdir()
    (directory / "uptime").write_text("1 1\n")
    script = f"mount --bind {directory}/uptime /proc/uptime && echo there && exec sleep 60"
    child = subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"there\n"
        yield directory, child.pid
    finally:
        child.kill()
        child.communicate(timeout=10)


async def test_a_read_through_a_mount_in_a_container_is_told_once(shown: tuple[Path, int]) -> None:
    directory, pid = shown
    inside = Path(f"/proc/{pid}/root/proc/uptime")
    demand = WatchedDemand()
    try:
        demand.expect("one", directory)
        assert inside.read_text() == "1 1\n"
        with trio.fail_after(5):
            assert await demand.readers() == {"one"}
        inside.read_text()
        with trio.move_on_after(0.1) as waited:
            await demand.readers()
        assert waited.cancelled_caught, "it was not expected again"
    finally:
        demand.close()


async def test_a_descriptor_that_is_kept_open_is_read_as_well(shown: tuple[Path, int]) -> None:
    directory, pid = shown
    demand = WatchedDemand()
    with Path(f"/proc/{pid}/root/proc/uptime").open("rb", buffering=0) as kept:
        demand.expect("one", directory)
        kept.read(1)
        with trio.fail_after(5):
            assert await demand.readers() == {"one"}
    demand.close()


async def test_what_the_agent_does_itself_is_no_read(shown: tuple[Path, int]) -> None:
    directory, pid = shown
    demand = WatchedDemand()
    with (directory / "uptime").open("r+b", buffering=0) as own:
        demand.expect("one", directory)
        own.write(b"2 2\n")
        (directory / ".new").write_bytes(b"x")
        (directory / ".new").rename(directory / "stat")
        with trio.move_on_after(0.1) as waited:
            await demand.readers()
        assert waited.cancelled_caught
        Path(f"/proc/{pid}/root/proc/uptime").read_text()
        with trio.fail_after(5):
            assert await demand.readers() == {"one"}, "still expected"
    demand.close()
