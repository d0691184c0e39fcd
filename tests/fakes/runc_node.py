# SPDX-License-Identifier: Apache-2.0
"""One node whose containers runc makes: a runtime's socket that lists them, and the view agent as a
command with a directory of its own. Gone at the end, with the holder that the agent has started.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from agents import holder_start, hostfs
from agents.hostfs import HostFs
from agents.mounts import LinuxMounts
from agents.overview import look
from agents.standin.cri_server import CriServer
from agents.standin.pods import ContainerSpec, ContainerStart, PodSpec, RunningContainer
from lxcfs_helper.agent import AGENT as VIEW
from lxcfs_helper.files import ViewFiles, views_directory
from tests.fakes.real_container import eventually
from tests.fakes.runc_container import RuncContainer
from tests.fakes.runtime import FakeRuntime

_ANY_PORT = "{gpu_plugin: 0, fuse_mounter: 0, lxcfs_helper: 0}"


class Runtime(FakeRuntime):
    """Lists runc's containers."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[RuncContainer] = []

    def containers(self) -> tuple[RunningContainer, ...]:
        return tuple(_running(one) for one in self.made if one.pid)


def _running(one: RuncContainer) -> RunningContainer:
    spec = ContainerSpec(one.name, one.command)
    pod = PodSpec(one.name, [spec], namespace="jupyter")
    start = ContainerStart(one.id, pod, f"uid-{one.name}", spec)
    return RunningContainer(start, one.pid, f"/{one.parent}/{one.id}", time.time_ns())


class RuncNode:
    """`section` is the agent's own (`lxcfs_helper`), as YAML in one line."""

    def __init__(self, directory: Path, section: str = "{heartbeat: 100ms, poll: 100ms}") -> None:
        self.directory = directory
        self._parent = f"nodeshare-test-{secrets.token_hex(6)}"
        self.runtime = Runtime()
        self._server = CriServer(directory / "cri.sock", self.runtime)
        self._server.start()
        self._agent: subprocess.Popen[bytes] | None = None
        self.config = directory / "config.yaml"
        self.kubelet_dir.mkdir()
        self.config.write_text(
            f"node:\n  run_dir: {self.run_dir}\n  state_dir: {directory}/state\n"
            f"  kubelet_dir: {self.kubelet_dir}\n  cri_socket: {directory}/cri.sock\n"
            f"  metrics: {{address: 127.0.0.1, ports: {_ANY_PORT}}}\n"
            f"  status: {{ports: {_ANY_PORT}}}\n"
            f"lxcfs_helper: {section}\n"
        )

    def make(self, name: str, *, starts: bool = True, **fields: object) -> RuncContainer:
        one = RuncContainer(name, self._parent, **fields)  # type: ignore[arg-type]  # its own fields
        self.runtime.made.append(one)
        one.create()
        if starts:
            one.start()
        return one

    def remove(self, one: RuncContainer) -> None:
        self.runtime.made.remove(one)
        one.remove()

    def start(self) -> None:
        log = self.directory / "log"
        with log.open("wb") as output:
            self._agent = subprocess.Popen(
                self._command("run", "view"), stdout=output, stderr=output
            )

    def kill(self) -> None:
        if self._agent is not None:
            self._agent.kill()
            self._agent.wait(timeout=10)
            self._agent = None

    def log(self) -> str:
        """What the agent has said since it was started."""
        return (self.directory / "log").read_text()

    def metrics(self) -> str:
        """The agent's, as Prometheus reads them."""
        (seen,) = look([VIEW], self.run_dir)
        assert seen.document is not None, seen.problem
        with urllib.request.urlopen(f"{seen.document['metrics']}/metrics", timeout=30) as answer:
            return str(answer.read().decode())

    def eject(self) -> str:
        done = subprocess.run(
            self._command("view", "eject"), capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    @property
    def run_dir(self) -> Path:
        return self.directory / "run"

    @property
    def kubelet_dir(self) -> Path:
        return self.directory / "kubelet"

    @property
    def seccomp_socket(self) -> Path:
        """Where runc hands containers over."""
        return hostfs.seccomp_socket(self.run_dir)

    @property
    def files(self) -> ViewFiles:
        return ViewFiles(views_directory(self.run_dir), LinuxMounts(), HostFs().proc)

    def close(self) -> None:
        self.kill()
        for one in self.runtime.made:
            one.remove()
        self._server.stop()
        self.eject()
        eventually(
            lambda: not holder_start.socket_path(self.run_dir).exists(), "the holder ends", 30
        )

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "agents", *words, "--config", str(self.config)]
