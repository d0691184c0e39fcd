# SPDX-License-Identifier: Apache-2.0
"""The real parts, started for a subject and gone after it: a stand-in node, agents as processes,
peers, and small C programs.

Everything started here carries the mark of the subject's directory, so that one sweep finds it
whatever happened. Measures nothing.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import trio
import yaml

from agents import config, holder_start
from agents.agent import installed, models
from agents.command import NODESHARE
from agents.config import NodeConfig
from agents.mounts import LinuxMounts
from agents.standin import run_directory
from agents.standin.cgroup_tree import hierarchies
from agents.standin.kubelet import EmbeddedKubelet
from agents.standin.runtime import ContainerRunner
from agents.standin.up import clean_up, stand_in_node
from tests.bench.measure import Context, NotHere

_START_S = 20.0
_STOP_S = 10.0
_ANY_PORT = {"gpu_plugin": 0, "fuse_mounter": 0, "lxcfs_helper": 0}
_SOURCES = Path(__file__).parent


class Running:
    """A child of the bench, with its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log

    @property
    def pid(self) -> int:
        return self.process.pid

    def check(self) -> None:
        """Raises RuntimeError, with its last words, when it has ended."""
        if self.process.poll() is not None:
            words = self.log.read_text(errors="replace").strip().splitlines()[-3:]
            text = " / ".join(words)
            raise RuntimeError(f"{self.log.stem} ended with code {self.process.returncode}: {text}")

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Raises RuntimeError when it ends first, or when that takes too long."""
        deadline = time.monotonic() + _START_S
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.log.stem}: {what}: not within {_START_S:g} s")
            time.sleep(0.005)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(_STOP_S)


class RunningAgent(Running):
    """An agent, through its status socket."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, socket_path: Path) -> None:
        super().__init__(process, log)
        self._socket = socket_path

    def status(self) -> Mapping[str, Any]:
        """Its status document; empty while it does not answer."""
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(5)
                client.connect(str(self._socket))
                client.sendall(b"GET /status.json HTTP/1.0\r\n\r\n")
                answer = b"".join(iter(lambda: client.recv(65536), b""))
            document = json.loads(answer.partition(b"\r\n\r\n")[2])
        except (OSError, ValueError):
            return {}
        assert isinstance(document, dict)
        return document

    def until_ready(self) -> None:
        self.until(lambda: self.status().get("ready"), "ready")

    def scrape(self) -> bytes:
        """`/metrics`, over TCP as Prometheus asks."""
        connection = http.client.HTTPConnection(
            str(self.status()["metrics"]).removeprefix("http://"), timeout=10
        )
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read()
        finally:
            connection.close()


class Workplace:
    """One subject's directory, configuration, and everything that runs there."""

    def __init__(self, directory: Path, context: Context) -> None:
        self.directory, self.context = directory, context
        self.config = directory / "config.yaml"
        self.node = NodeConfig()
        self._environment = {**os.environ, **run_directory.environment(directory)}
        (directory / "logs").mkdir(exist_ok=True)

    def configure(self, **sections: Mapping[str, Any]) -> NodeConfig:
        """Write the configuration: these sections, on a node that lies in this directory."""
        node = {
            "name": "bench",
            "state_dir": str(self.directory / "state"),
            "run_dir": str(self.directory / "run"),
            "kubelet_dir": str(self.directory / "kubelet"),
            "cri_socket": str(self.directory / "cri.sock"),
            "metrics": {"address": "127.0.0.1", "ports": _ANY_PORT},
            "status": {"ports": _ANY_PORT},
        }
        return self.write({"node": node, **sections})

    def write(self, document: Mapping[str, Any]) -> NodeConfig:
        """Use this configuration. Raises ConfigError when it is wrong."""
        text = yaml.safe_dump(dict(document), sort_keys=False)
        self.node = config.parse(text, models(installed()), name="bench").node
        self.config.write_text(text)
        return self.node

    @contextmanager
    def cluster(self) -> Iterator[tuple[EmbeddedKubelet, ContainerRunner]]:
        """The embedded kubelet and the container runner, where the agents look for them."""
        with stand_in_node(self.directory, self.node, self.context.host) as parts:
            yield parts

    def start(self, name: str, argv: Sequence[str]) -> Running:
        """A child with our mark, in a session of its own."""
        return Running(*self._started(name, argv))

    def agent(self, noun: str) -> RunningAgent:
        """`nodeshare run <noun>`, as a DaemonSet would run it; not waited for."""
        argv = [*NODESHARE, "run", noun, "--config", str(self.config)]
        process, log = self._started(noun, argv)
        return RunningAgent(process, log, self.node.run_dir / f"{noun}.sock")

    def run(self, argv: Sequence[str], *, timeout_s: float = 60.0) -> str:
        """A command to its end; its stdout. Raises RuntimeError when it fails."""
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=timeout_s, env=self._environment
        )
        if done.returncode:
            raise RuntimeError(f"{argv[0]} ended with code {done.returncode}: {done.stderr[-500:]}")
        return done.stdout

    def compile(self, name: str) -> Path:
        """One of the C programs beside this module. Raises NotHere without a compiler."""
        compiler = needs("gcc", "apt-get install gcc libc6-dev")
        target = self.directory / name
        source = _SOURCES / f"{name}.c"
        self.run([compiler, "-O2", "-Wall", "-Wextra", "-o", str(target), str(source)])
        return target

    def _started(self, name: str, argv: Sequence[str]) -> tuple[subprocess.Popen[bytes], Path]:
        path = self.directory / "logs" / f"{name}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                argv, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )
        return process, path


@contextmanager
def workplace(context: Context) -> Iterator[Workplace]:
    """Claims the directory of the subject, and leaves nothing of it: no process, no mount, no
    cgroup. Raises AgentError for what resists.
    """
    directory = run_directory.claim(context.directory)
    try:
        yield Workplace(directory, context)
    finally:
        clean_up(directory, context.host)
        # A holder that could not be drained leaves groups that no sweep knows.
        holder = holder_start.socket_path(directory / "run")
        trio.run(holder_start.remove_cgroups, context.host.cgroup, holder)


def needs(program: str, remedy: str) -> str:
    """The path of a program. Raises NotHere."""
    found = shutil.which(program)
    if found is None:
        raise NotHere(f"{program} is not installed: {remedy}")
    return found


def needs_kernel(context: Context, *, views: bool = False, fuse: bool = False) -> None:
    """Cgroups, and what attaching views or a FUSE mount takes besides. Raises NotHere."""
    if not hierarchies(context.host.cgroup):
        raise NotHere(f"no cgroup hierarchy at {str(context.host.cgroup)!r}: mount cgroup2")
    features = LinuxMounts().features()
    if views and not (features.open_tree and features.mount_setattr):
        raise NotHere("the kernel cannot attach files to running containers: it needs Linux 5.12")
    if fuse and not context.host.fuse_device.exists():
        raise NotHere(f"{str(context.host.fuse_device)!r} is missing: modprobe fuse")


def cpu_s(*pids: int) -> float:
    """CPU time of these processes so far, user and system, in steps of 10 ms."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(each.user + each.system for each in times)


def python() -> str:
    """The interpreter that the agents run on."""
    return sys.executable
