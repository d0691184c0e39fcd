# SPDX-License-Identifier: Apache-2.0
"""The process of the lxcfs-compatible root: it dies, the agent dies, the configuration changes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio

from agents import mountinfo, processes
from agents.hostfs import PROC, HostFs
from agents.logs import get_logger
from agents.mounts import LinuxMounts, Propagation
from lxcfs_helper.compat import answering
from lxcfs_helper.compat.keeper import Keeper, Standing
from lxcfs_helper.compat.removal import remove

HOST = HostFs()
MOUNTS = LinuxMounts()
LIMIT_S = 15


class Node:
    """One run directory, and a root that an agent is to serve."""

    def __init__(self, directory: Path, nursery: trio.Nursery) -> None:
        self.run_dir, self.root = directory / "run", directory / "lxcfs"
        self._nursery = nursery
        self._scope = trio.CancelScope()
        self.keeper = self.agent(self.root)

    def agent(self, root: Path | None) -> Keeper:
        """A new agent; the one before is cut off in whatever it does."""
        self._scope.cancel()
        self._scope = trio.CancelScope()
        self.keeper = Keeper(root, self.run_dir, HOST, MOUNTS, get_logger())
        self._nursery.start_soon(self._run, self.keeper, self._scope)
        return self.keeper

    def stop(self) -> None:
        self._scope.cancel()

    async def until(self, condition: Callable[[Standing], object]) -> Standing:
        """How it stands as soon as that is true."""
        with trio.fail_after(LIMIT_S):
            while not condition(self.keeper.standing):
                await trio.sleep(0.01)
        return self.keeper.standing

    async def served(self, *, other_than: int | None = None) -> int:
        """The pid of who serves it."""
        now = await self.until(lambda s: s.state == "served" and s.pid != other_than)
        assert (Path(now.root) / "proc/meminfo").read_bytes()
        assert now.pid is not None
        return now.pid

    def kill(self, pid: int) -> None:
        key = processes.identify(PROC, pid)
        assert key is not None
        assert processes.signal_process(PROC, key, signal.SIGKILL)

    @staticmethod
    async def _run(keeper: Keeper, scope: trio.CancelScope) -> None:
        with scope:
            await keeper.run()


def mounted(at: Path) -> int:
    return len(mountinfo.at(mountinfo.read(PROC), at))


@pytest.fixture
async def node(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Node]:
    """Nothing of it is left at the end."""
    if not HOST.fuse_device.exists():
        pytest.skip("no FUSE device")
    node = Node(tmp_path, nursery)
    try:
        yield node
    finally:
        node.stop()
        with trio.CancelScope(shield=True), trio.fail_after(LIMIT_S):
            _, problems = await remove(node.run_dir, HOST, MOUNTS)
        assert not problems
        nursery.cancel_scope.cancel()


@pytest.mark.loud
async def test_a_dead_root_is_mounted_again(node: Node) -> None:
    pid = await node.served()
    for _ in range(2):
        kept = os.open(node.root / "proc/meminfo", os.O_RDONLY)
        node.kill(pid)
        pid = await node.served(other_than=pid)
        with pytest.raises(OSError, match="not connected") as caught:
            os.read(kept, 10)
        os.close(kept)
        assert caught.value.errno == errno.ENOTCONN
        assert mounted(node.root) == 1
    assert node.keeper.standing.restarts == 2


@pytest.mark.loud
async def test_who_reads_from_a_root_that_hangs_gets_an_error(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "EVERY_S", 0.1)
    monkeypatch.setattr(answering, "LIMIT_S", 2.0)
    pid = await node.served()
    node.agent(node.root)  # by now it is being watched in these times
    await trio.sleep(0.5)
    assert await node.served() == pid  # who answers is left alone
    os.kill(pid, signal.SIGSTOP)
    with trio.fail_after(LIMIT_S), pytest.raises(OSError, match=r"not connected|connection abort"):
        await trio.to_thread.run_sync((node.root / "proc/meminfo").read_bytes)
    await node.served(other_than=pid)
    assert (node.root / "proc/meminfo").read_bytes()


async def test_a_new_agent_finds_the_root_as_it_is(node: Node) -> None:
    pid = await node.served()
    kept = os.open(node.root / "proc/meminfo", os.O_RDONLY)
    node.agent(node.root)
    assert await node.served() == pid
    assert os.read(kept, 8) == b"MemTotal"
    os.close(kept)
    assert node.keeper.standing.restarts == 0


@pytest.mark.loud
async def test_a_root_that_died_while_no_agent_ran(node: Node) -> None:
    pid = await node.served()
    node.stop()
    node.kill(pid)
    node.agent(node.root)
    await node.served(other_than=pid)
    assert mounted(node.root) == 1


async def test_the_configuration_moves_it_and_takes_it_away(node: Node) -> None:
    pid = await node.served()
    other = node.root.with_name("other")
    node.keeper.configure(other)
    await node.until(lambda s: s.state == "served" and s.root == str(other))
    await node.served(other_than=pid)
    with trio.fail_after(LIMIT_S):
        while mounted(node.root):
            await trio.sleep(0.01)
    node.keeper.configure(None)
    await node.until(lambda s: s.state == "off")
    assert mounted(other) == 0


@pytest.mark.loud
@pytest.mark.parametrize("what", ["mount", "file", "directory", "link"])
async def test_what_is_not_ours_is_left_alone(node: Node, tmp_path: Path, what: str) -> None:
    await node.served()
    taken = tmp_path / "taken"
    if what == "file":
        taken.write_text("mine")
    elif what == "link":
        taken.symlink_to(tmp_path)
    else:
        taken.mkdir()
    if what == "directory":
        (taken / "file").touch()
    if what == "mount":
        MOUNTS.mount("lxcfs", taken, "tmpfs")
    try:
        node.keeper.configure(taken)
        now = await node.until(lambda s: s.state == "refused")
        assert str(taken) in now.reason
        assert now.problem == now.reason
        assert "configure another compat_root" in now.reason
        assert ("umount" in now.reason) is (what == "mount")
        assert mounted(taken) == (what == "mount")
    finally:
        if what == "mount":
            MOUNTS.unmount(taken)
    if what == "mount":  # and as soon as it is free
        await node.until(lambda s: s.state == "served")
        node.keeper.configure(None)
        await node.until(lambda s: s.state == "off")


@pytest.mark.loud
async def test_containers_that_bound_the_directory_above_see_the_new_mount(
    node: Node, tmp_path: Path
) -> None:
    await node.served()
    shared = tmp_path / "shared"
    shared.mkdir()
    MOUNTS.bind(shared, shared)
    MOUNTS.set_propagation(shared, Propagation.SHARED)
    try:
        node.keeper.configure(shared / "lxcfs")
        await node.until(lambda s: s.root == str(shared / "lxcfs") and s.state == "served")
        pid = await node.served()
        pod = subprocess.Popen(["unshare", "-m", "--propagation", "slave", "sleep", "60"])
        try:
            inside = PROC / str(pod.pid) / "root" / str(shared).lstrip("/") / "lxcfs/proc/uptime"
            with trio.fail_after(LIMIT_S):
                while (PROC / str(pod.pid) / "comm").read_text() != "sleep\n":
                    await trio.sleep(0.01)
            assert inside.read_bytes()
            node.kill(pid)
            await node.served(other_than=pid)
            assert inside.read_bytes()
        finally:
            pod.kill()
            pod.wait()
        node.keeper.configure(None)
        await node.until(lambda s: s.state == "off")
    finally:
        MOUNTS.unmount(shared, detach=True)


@pytest.mark.loud
async def test_a_root_that_cannot_be_served_says_why_and_is_tried_again(
    node: Node, tmp_path: Path
) -> None:
    await node.served()
    nowhere = tmp_path / "file"
    nowhere.write_text("a file")
    node.keeper.configure(nowhere / "lxcfs")
    now = await node.until(lambda s: s.state == "failed")
    assert "Not a directory" in now.reason
    nowhere.unlink()
    await node.until(lambda s: s.state == "served")
    node.keeper.configure(None)
    await node.until(lambda s: s.state == "off")
