# SPDX-License-Identifier: Apache-2.0
"""Real containers, as far as views are concerned: a process in namespaces and cgroups of its own.

A child in its own mount and pid namespace, in a cgroup named after a container id, below a uniquely
named one: in each of v1's hierarchies that matter here, or in the one of v2.
"""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from agents import processes
from agents.containers import Container, Pod
from agents.hostfs import CGROUP, PROC

#: How many times as long as usual things may take: more where the processor is emulated.
PATIENCE = float(os.environ.get("NODESHARE_TEST_PATIENCE", "1"))
_V1_CONTROLLERS = ("memory", "cpu", "cpuacct", "cpuset")
V2 = (CGROUP / "cgroup.controllers").exists()


def _available() -> bool:
    if V2:
        return {"memory", "cpu"} <= set((CGROUP / "cgroup.controllers").read_text().split())
    return all((CGROUP / name / "cgroup.procs").exists() for name in _V1_CONTROLLERS)


#: Whether memory and CPU of a cgroup can be limited on this machine.
LIMITS_AVAILABLE = _available()
#: The roots of the hierarchies with limits; beside v1's, also those that only count, and cgroup2
#: for its pressure files.
ROOTS = (
    (CGROUP,)
    if V2
    else (
        *(CGROUP / name for name in _V1_CONTROLLERS),
        *(CGROUP / name for name in ("blkio", "unified") if (CGROUP / name).is_dir()),
    )
)


def eventually(condition: Callable[[], object], what: str, timeout_s: float = 10.0) -> None:
    """Wait until it is true; fail with `what` when it never becomes so."""
    deadline = time.monotonic() + timeout_s * PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.01)


@dataclass
class RealContainer:
    """`pid` is its first process."""

    name: str
    parent: str
    id: str = field(default_factory=lambda: secrets.token_hex(32))
    pid: int = 0
    _children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def directory(self, controller: str) -> Path:
        return (CGROUP if V2 else CGROUP / controller) / self.parent / self.id

    def directories(self) -> list[Path]:
        return [root / self.parent / self.id for root in ROOTS]

    def limit(self, *, memory: int | None = None, cpus: float | None = None) -> None:
        """In bytes and CPUs; no CPUs (0) lifts the quota."""
        if memory is not None:
            name = "memory.max" if V2 else "memory.limit_in_bytes"
            (self.directory("memory") / name).write_text(str(memory))
        if cpus is not None:
            quota = int(cpus * 100_000)
            name = "cpu.max" if V2 else "cpu.cfs_quota_us"
            unlimited = "max" if V2 else "-1"
            (self.directory("cpu") / name).write_text(str(quota or unlimited))

    def create(self) -> None:
        for directory in self.directories():
            directory.parent.mkdir(exist_ok=True)
            if V2:
                hand_on(directory.parent.parent)
                hand_on(directory.parent)
            directory.mkdir()
        if V2:
            return
        # A new cpuset of v1 is empty, and takes no process.
        for level in (self.directory("cpuset").parent, self.directory("cpuset")):
            for name in ("cpuset.mems", "cpuset.cpus"):
                (level / name).write_text((level.parent / name).read_text())

    def start(self) -> None:
        outer = self.spawn("unshare -m -p -f --mount-proc --kill-child sleep 600")
        eventually(partial(self._find_first, outer.pid), "the container's first process")

    def spawn(self, command: str) -> subprocess.Popen[bytes]:
        """A process of the host in the container's cgroups."""
        enter = [f"echo 0 > {directory}/cgroup.procs" for directory in self.directories()]
        script = "; ".join([*enter, f"exec {command}"])
        child = subprocess.Popen(["sh", "-c", script], stderr=subprocess.DEVNULL)
        self._children.append(child)
        return child

    def hold(self, mebibytes: int) -> subprocess.Popen[bytes]:
        """Use this much memory until the process, or the container, is ended."""
        program = f"import time; held = b'x' * ({mebibytes} << 20); time.sleep(600)"
        return self.spawn(f"/usr/bin/python3 -c {shlex.quote(program)}")

    def _find_first(self, outer: int) -> bool:
        """It is there when /proc shows its own pid namespace."""
        children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        if not children:
            return False
        self.pid = int(children[0])
        return Path(f"/proc/{self.pid}/root/proc/1/comm").read_text() == "sleep\n"

    def run(self, *argv: str) -> str:
        """What a command inside says."""
        done = subprocess.run(
            ["nsenter", "-t", str(self.pid), "-m", "-p", *argv],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        return done.stdout + done.stderr

    def enter(self, *argv: str) -> subprocess.Popen[bytes]:
        """Start a command inside that goes on until the container ends."""
        child = subprocess.Popen(["nsenter", "-t", str(self.pid), "-m", "-p", *argv])
        self._children.append(child)
        return child

    @property
    def pid_namespace(self) -> int:
        """Its number."""
        return Path(f"/proc/{self.pid}/ns/pid").stat().st_ino

    def read(self, path: str) -> str:
        return Path(f"/proc/{self.pid}/root{path}").read_text()

    def container(self, namespace: str = "jupyter") -> Container:
        return Container(self.id, "main", Pod(self.name, namespace, f"uid-{self.name}"), self.pid)

    def kill(self) -> None:
        key = processes.identify(PROC, self.pid) if self.pid else None
        if key is not None:
            processes.signal_process(PROC, key, signal.SIGKILL)
        for child in self._children:
            child.kill()
            child.wait(timeout=10)
        self._children.clear()
        self.pid = 0

    def remove(self) -> None:
        self.kill()
        for directory in self.directories():
            eventually(partial(remove_cgroup, directory), "an empty cgroup")


def hand_on(directory: Path) -> None:
    """Give the children of a cgroup of v2 the controllers that limit (a systemd host has done so at
    the root)."""
    control = directory / "cgroup.subtree_control"
    offered = set((directory / "cgroup.controllers").read_text().split())
    wanted = {"memory", "cpu", "cpuset"} & offered
    missing = wanted - set(control.read_text().split())
    if missing:
        control.write_text(" ".join(f"+{name}" for name in missing))


def remove_cgroup(directory: Path) -> bool:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
