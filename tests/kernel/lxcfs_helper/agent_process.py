# SPDX-License-Identifier: Apache-2.0
"""The view agent as a process to start and kill, and what its containers see of its work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from agents import mountinfo
from agents.hostfs import HostFs
from agents.mounts import LinuxMounts
from lxcfs_helper.config import ViewConfig
from lxcfs_helper.files import ViewFiles, is_ours, views_directory
from lxcfs_helper.views import VIEWS
from tests.fakes.real_container import RealContainer

#: Where a container with limits of memory and CPU is shown something.
TARGETS = frozenset(
    str(target) for name in ViewConfig().files for target in VIEWS[name].targets if target.exists()
)


class AgentProcess:
    """The agent, started and killed at will."""

    def __init__(self, directory: Path) -> None:
        self.run_dir = directory / "run"
        self._listing = directory / "listing.json"
        self._process: subprocess.Popen[bytes] | None = None
        self.list_containers()

    def list_containers(self, *containers: RealContainer, namespace: str = "jupyter") -> None:
        """These run now, as far as the runtime tells."""
        rows = [
            {"id": one.id, "pod": one.name, "namespace": namespace, "pid": one.pid}
            for one in containers
        ]
        new = self._listing.with_suffix(".new")
        new.write_text(json.dumps(rows))
        new.rename(self._listing)

    def start(
        self, *, dies_at: int | None = None, untold: bool = False, open_files: int | None = None
    ) -> None:
        """`dies_at`: it kills itself with SIGKILL before or after this effect on the system.
        `untold`: nobody tells it what happens. `open_files`: no more than these."""
        script = Path(__file__).with_name("view_agent.py")
        argv = [sys.executable, str(script), str(self._listing), str(self.run_dir)]
        if dies_at is not None:
            argv += ["--dies-at", str(dies_at)]
        if untold:
            argv.append("--untold")
        if open_files is not None:
            argv = ["prlimit", f"--nofile={open_files}:{open_files}", *argv]
        self._process = subprocess.Popen(self.wrap(argv))

    def wrap(self, argv: list[str]) -> list[str]:
        """How it is started: here as it is."""
        return argv

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(timeout=10)
            self._process = None

    def ended(self) -> bool:
        """Whether it died by itself."""
        return self._process is None or self._process.poll() is not None

    def has_files_of(self) -> set[str]:
        """The ids of the containers for which there are files."""
        return {name for name in os.listdir(self.files.directory) if not name.startswith(".")}

    @property
    def files(self) -> ViewFiles:
        return ViewFiles(views_directory(self.run_dir), LinuxMounts(), HostFs().proc)


def views(container: RealContainer) -> list[mountinfo.MountEntry]:
    """The mounts of any agent that are on top of their places in a container."""
    stacks = mountinfo.by_place(mountinfo.read(HostFs().proc, container.pid)).values()
    tops = [stack[-1] for stack in stacks]
    return [e for e in tops if e.mount_point in TARGETS and is_ours(e, e.source) and _is_file(e)]


def _is_file(entry: mountinfo.MountEntry) -> bool:
    return entry.fstype == "cgroup2" or entry.source.startswith("nodeshare-views:")


def attached(container: RealContainer) -> list[str]:
    """Where they are."""
    return sorted(entry.mount_point for entry in views(container))


def covered(*containers: RealContainer) -> Callable[[], bool]:
    """Whether all are shown everything that a container with limits is shown."""
    return lambda: all(set(attached(container)) >= TARGETS for container in containers)


def total_kib(container: RealContainer) -> int:
    return int(container.read("/proc/meminfo").split()[1])


def free_kib(container: RealContainer) -> int:
    return int(container.read("/proc/meminfo").splitlines()[1].split()[1])


def total_kib_of_host() -> int:
    return int(Path("/proc/meminfo").read_text().split()[1])


class LoopingReader:
    """Reads some files of a container over and over, opened anew and kept open, and notes what a
    check finds wrong: it says what, or nothing."""

    def __init__(
        self, container: RealContainer, checks: Mapping[str, Callable[[str], str | None]]
    ) -> None:
        self.problems: list[str] = []
        self.reads = 0
        root = Path(f"/proc/{container.pid}/root")
        self._checks = {root / name.lstrip("/"): check for name, check in checks.items()}
        self._thread = threading.Thread(target=self._loop)
        self._stop = False

    def __enter__(self) -> LoopingReader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join(timeout=10)

    def has_read(self, times: int) -> bool:
        return self.reads > times

    def _loop(self) -> None:
        kept: dict[Path, int] = {}
        try:
            kept = {path: os.open(path, os.O_RDONLY) for path in self._checks}
            while not self._stop:
                for path, check in self._checks.items():
                    for text in (os.pread(kept[path], 1 << 20, 0).decode(), path.read_text()):
                        if wrong := check(text):
                            self.problems.append(f"{path.name}: {wrong}: {text!r}")
                self.reads += 1
        except (OSError, UnicodeError) as error:
            self.problems.append(repr(error))
        finally:
            for descriptor in kept.values():
                os.close(descriptor)


def whole_meminfo(total_kib: int) -> Callable[[str], str | None]:
    """A check: one whole text of a container with so much memory."""

    def check(text: str) -> str | None:
        lines = text.splitlines()
        try:
            values = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        except (ValueError, IndexError):
            return "torn"
        if values.get("MemTotal") != total_kib:
            return "not the container's"
        if len(values) != len(lines) or len(lines) < 30 or values["MemFree"] > total_kib:
            return "not whole"
        return "a value of the host" if "DirectMap4k" in values else None

    return check


def exactly(text: str) -> Callable[[str], str | None]:
    """A check: this, and nothing else."""
    return lambda found: None if found == text else "not the container's"


def processors(count: int) -> Callable[[str], str | None]:
    """A check of cpuinfo or stat: so many CPUs, and a last line that is complete."""

    def check(text: str) -> str | None:
        if not text.endswith("\n"):
            return "torn"
        lines = text.splitlines()
        found = sum(line.startswith("processor") or line[:4] in _CPU_LINES for line in lines)
        return None if found == count else "not the container's"

    return check


_CPU_LINES = {f"cpu{number}" for number in range(10)}


def reading(one: RealContainer) -> LoopingReader:
    """Everything of a container with one CPU that tells at each read whether it is the host's."""
    return LoopingReader(
        one,
        {
            "/proc/meminfo": whole_meminfo(total_kib(one)),
            "/proc/cpuinfo": processors(1),
            "/proc/stat": processors(1),
            "/sys/devices/system/cpu/online": exactly("0\n"),
        },
    )
