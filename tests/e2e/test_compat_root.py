# SPDX-License-Identifier: Apache-2.0
"""The lxcfs-compatible root by its commands: served, kept while the agent is killed, taken away."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agents import mountinfo, overview
from agents.hostfs import PROC, HostFs
from lxcfs_helper.agent import AGENT

NODESHARE = [sys.executable, "-m", "agents"]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*NODESHARE, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def eventually(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.02)


class Node:
    """A configuration with a root, and its agent."""

    def __init__(self, directory: Path) -> None:
        self.root, self.config = directory / "lxcfs", directory / "config.yaml"
        self.run_dir = directory / "run"
        self._log = directory / "agent.log"
        self.config.write_text(
            f"node:\n  run_dir: {self.run_dir}\n  cri_socket: {directory}/cri.sock\n"
            "  metrics: {address: 127.0.0.1, ports: {lxcfs_helper: 0}}\n"
            "  status: {ports: {lxcfs_helper: 0}}\n"
            f"lxcfs_helper: {{compat_root: {self.root}}}\n"
        )
        self.agent: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.agent = subprocess.Popen(
                [*NODESHARE, "run", "view", "--config", str(self.config)], stdout=log, stderr=log
            )
        eventually(lambda: self.stands().get("state") == "served", "it is served")

    def kill(self) -> None:
        if self.agent is not None:
            self.agent.send_signal(signal.SIGKILL)
            self.agent.wait()

    def stands(self) -> Mapping[str, Any]:
        """As the agent's status document tells; empty while there is none."""
        (seen,) = overview.look([AGENT], self.run_dir)
        found = (seen.document or {}).get("compat_root", {})
        assert isinstance(found, dict)
        return found


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    if not HostFs().fuse_device.exists():
        pytest.skip("no FUSE device here: modprobe fuse")
    node = Node(tmp_path)
    try:
        yield node
    finally:
        node.kill()
        done = command("view", "eject", "--config", str(node.config))
        assert done.returncode == 0, done.stdout + done.stderr


def test_from_the_configuration_to_eject(node: Node) -> None:
    node.start()
    before = node.stands()
    assert (node.root / "proc/meminfo").read_bytes().startswith(b"MemTotal")
    assert str(node.root) in command("status", "--run-dir", str(node.run_dir)).stdout

    node.kill()
    assert (node.root / "proc/uptime").read_bytes()
    node.start()
    assert node.stands()["pid"] == before["pid"]

    node.kill()
    done = command("view", "eject", "--config", str(node.config))
    assert "the lxcfs-compatible root taken away" in done.stdout
    assert mountinfo.at(mountinfo.read(PROC), node.root) == ()
    assert not list(node.root.iterdir())
