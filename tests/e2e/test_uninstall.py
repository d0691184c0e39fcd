# SPDX-License-Identifier: Apache-2.0
"""`nodeshare uninstall` on a machine where everything was killed, while containers go on: refused,
rehearsed, done, and done again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import holder_start
from agents.hostfs import CGROUP, PROC, HostFs
from agents.mountinfo import MountEntry, below, read
from agents.standin.up import clean_up
from lxcfs_helper.files import source_name, views_directory
from tests.fakes.demonstration import NODESHARE, Up, all_pods_read_the_file

START_S = 90.0
pytestmark = pytest.mark.timeout(300)


class Node:
    """A demonstration; what of it is the agents', and not the stand-in node's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "config.yaml"
        self.run_dir, self.state_dir = directory / "run", directory / "state"
        self.up = Up(directory, directory.with_name("output"))

    def agents(self) -> list[int]:
        words = f"--config\0{self.config}\0".encode()
        return [pid for pid in _pids() if _file(pid, "cmdline").endswith(words)]

    def kill_all(self) -> None:
        """The supervisor first: it would start the others again."""
        self.up.process.kill()
        self.up.process.wait(30)
        for pid in self.agents():
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while self.agents():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def pods(self) -> list[int]:
        """Processes that have a mount namespace of this node's containers."""
        mark = f"NODESHARE_RUN_DIR={self.directory}/pods".encode()
        return [pid for pid in _pids() if mark in _file(pid, "environ").split(b"\0")]

    def ours(self) -> dict[str, object]:
        """Everything that an agent has made, wherever it is."""
        source = source_name(views_directory(self.run_dir))
        own = str(self.run_dir).encode()
        return {
            "files": sorted(
                str(path)
                for place in (self.run_dir, self.state_dir)
                for path in (place, *place.rglob("*"))
                if os.path.lexists(path)
                and not path.is_relative_to(self.run_dir / "views")
                # The connections of the whole machine, where other tests have theirs.
                and self.run_dir / "mounts/fusectl" not in path.parents
            ),
            "sockets": sorted(self.directory.glob("kubelet/device-plugins/nodeshare-*.sock")),
            "mounts": sorted(
                entry.mount_point
                for place in (self.run_dir, self.state_dir)
                for entry in below(read(PROC), place)
            ),
            "views": sum(entry.source == source for pid in self.pods() for entry in _mounts(pid)),
            "processes": [
                pid
                for pid in _pids()
                if own + b"/holder.sock\0" in _file(pid, "cmdline")
                or (b"NODESHARE_STAGING=" in _file(pid, "environ") and own in _file(pid, "cmdline"))
            ],
            "cgroups": holder_start.own_cgroups(CGROUP, holder_start.socket_path(self.run_dir)),
        }

    def uninstall(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*NODESHARE, "uninstall", "--config", str(self.config), *options],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )


def _pids() -> list[int]:
    return [int(name) for name in os.listdir(PROC) if name.isdigit() and int(name) != os.getpid()]


def _file(pid: int, name: str) -> bytes:
    try:
        return (PROC / str(pid) / name).read_bytes()
    except OSError:
        return b""


def _mounts(pid: int) -> tuple[MountEntry, ...]:
    try:
        return read(PROC, pid)
    except OSError:
        return ()


@pytest.fixture
def node() -> Iterator[Node]:
    # Not below tmp_path: the name of a socket may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="nodeshare-") as parent:
        made = Node(Path(parent).resolve() / "node")
        try:
            yield made
        finally:
            made.up.process.kill()
            made.up.process.wait(30)
            clean_up(made.directory, HostFs())


def test_every_trace_goes_and_nothing_before_it_may(node: Node) -> None:
    node.up.until(lambda: all_pods_read_the_file(node.up), START_S)
    refused = node.uninstall("--force")
    assert refused.returncode == 1
    for agent in ("fuse_mounter (pid ", "gpu_plugin (pid ", "lxcfs_helper (pid "):
        assert agent in refused.stderr
    assert len(node.agents()) == 3, "nobody was touched"

    node.kill_all()
    before, pods = node.ours(), node.pods()
    assert all(before.values()), before
    assert pods
    refused = node.uninstall()
    assert refused.returncode == 1
    assert "3 containers use something of nodeshare" in refused.stderr
    for loss in ("all mounts below '/data'", "its share of a GPU", "its views: "):
        assert refused.stdout.count(loss) == 3, refused.stdout
    rehearsed = node.uninstall("--dry-run")
    assert rehearsed.returncode == 0
    assert f"would remove '{node.state_dir}/gpu'" in rehearsed.stdout
    assert node.ours() == before, "neither has changed anything"

    done = node.uninstall("--force")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not any(node.ours().values()), node.ours()
    assert node.pods() == pods, "containers go on"
    assert all(str(node.run_dir) not in str(entry) for pid in pods for entry in _mounts(pid))
    assert (node.directory / "data/welcome.txt").exists(), "what was served is not ours"
    again = node.uninstall()
    assert (again.returncode, again.stderr) == (0, "")
    assert "removed '" not in again.stdout
