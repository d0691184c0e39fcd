# SPDX-License-Identifier: Apache-2.0
"""`nodeshare up --config`: a supervisor that is killed is followed by one that takes over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agents.hostfs import PROC
from agents.mountinfo import below, read

NODESHARE = [sys.executable, "-m", "agents"]


class Node:
    """A configuration that mounts one folder, on ports of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "config.yaml"
        (directory / "source").mkdir()
        (directory / "source/file").write_text("there")
        free = "{gpu_plugin: 0, fuse_mounter: 0, lxcfs_helper: 0}"
        self.config.write_text(
            f"""
node:
  run_dir: {directory}/run
  state_dir: {directory}/state
  metrics: {{address: 127.0.0.1, ports: {free}}}
  status: {{ports: {{gpu_plugin: 0, fuse_mounter: 0, lxcfs_helper: 0, up: 0}}}}
fuse_mounter:
  root: {directory}/shared
  mounts: [{{name: a, driver: passthrough, source: {directory}/source, path: a}}]
"""
        )
        self.running: list[subprocess.Popen[bytes]] = []

    def shown(self) -> str:
        """By the one that was started last."""
        return (self.directory / f"output.{len(self.running)}").read_text()

    def agents(self) -> list[int]:
        """The processes that have this configuration: supervisors and agents."""
        found = []
        for path in PROC.iterdir():
            try:
                words = (path / "cmdline").read_bytes().split(b"\0")
            except OSError:  # no process, or it has just ended
                continue
            if str(self.config).encode() in words:
                found.append(int(path.name))
        return found

    def up(self) -> subprocess.Popen[bytes]:
        with (self.directory / f"output.{len(self.running) + 1}").open("wb") as output:
            self.running.append(
                subprocess.Popen(
                    [*NODESHARE, "up", "--config", str(self.config), "--plain"],
                    stdout=output,
                    stderr=output,
                )
            )
        return self.running[-1]

    def client(self) -> int | None:
        """The process that serves the mount, once the agent says so."""
        answer = subprocess.run(
            [*NODESHARE, "status", "--json", "--run-dir", f"{self.directory}/run"],
            capture_output=True,
            timeout=30,
            check=False,
        )
        document = json.loads(answer.stdout)["fuse_mounter"] or {}
        mounts = [one for one in document.get("mounts", ()) if one["state"] == "published"]
        return mounts[0]["client_pid"] if mounts else None

    def until(self, what: Callable[[], object]) -> None:
        deadline = time.monotonic() + 30
        while not what():
            assert time.monotonic() < deadline, self.shown()
            time.sleep(0.1)


@pytest.fixture
def node() -> Iterator[Node]:
    # Not below tmp_path: the name of a socket may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="nodeshare-") as name:
        made = Node(Path(name).resolve())
        yield made
        for process in made.running:
            process.terminate()
            process.wait(40)
        for pid in made.agents():
            os.kill(pid, signal.SIGKILL)
        clear = [*NODESHARE, "mounts", "drain", "--all", "--config", str(made.config)]
        subprocess.run(clear, timeout=60, check=False, capture_output=True)


def test_what_a_killed_supervisor_left_is_taken_over(node: Node) -> None:
    first = node.up()
    node.until(node.client)
    client = node.client()
    first.kill()
    first.wait(10)
    assert node.client() == client, "the agent outlives it"
    second = node.up()
    node.until(lambda: "published" in node.shown())
    assert node.client() == client, "the mount has lived through it"
    assert (node.directory / "shared/a/file").read_text() == "there"
    assert len(node.agents()) == 2, "one supervisor and one agent"
    second.send_signal(signal.SIGTERM)
    assert second.wait(40) == 0
    assert below(read(PROC), node.directory) == ()
