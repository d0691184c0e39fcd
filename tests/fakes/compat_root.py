# SPDX-License-Identifier: Apache-2.0
"""The lxcfs-compatible root as a process, mounted for one test."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agents import mountinfo
from agents.hostfs import PROC
from agents.mounts import LinuxMounts
from lxcfs_helper.compat import report
from lxcfs_helper.compat.report import Report
from tests.fakes.real_container import eventually


@dataclass(frozen=True, slots=True)
class ServedRoot:
    """It is served at `at`; what it tells of itself is in `told`."""

    at: Path
    told: Path
    process: subprocess.Popen[bytes]

    def descriptors(self) -> int:
        """How many the server holds."""
        return len(list((PROC / str(self.process.pid) / "fd").iterdir()))

    def report(self) -> Report:
        return report.read(self.told)

    def toggle(self) -> None:
        """SIGUSR2, and until it has taken effect."""
        wanted = not self.report().virtual
        self.process.send_signal(signal.SIGUSR2)
        eventually(lambda: self.report().virtual is wanted, "the signal is heard")


@contextmanager
def compat_root(directory: Path) -> Iterator[ServedRoot]:
    """Serve it below this directory. At the end it is taken away, and the server must not have
    complained; it need not end by itself, because any new mount namespace has the mount, too."""
    at, told = directory / "lxcfs", directory / "report.json"
    at.mkdir()
    argv = [sys.executable, "-P", "-m", "lxcfs_helper.compat", str(at), "--report", str(told)]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE)
    try:
        eventually(told.exists, f"mounted at {at}")
        yield ServedRoot(at, told, process)
        if process.poll() is None:
            LinuxMounts().unmount(at, detach=True)
            process.terminate()
        _, errors = process.communicate(timeout=20)
        assert errors == b""
    finally:
        process.kill()
        process.communicate(timeout=20)
        for _ in mountinfo.at(mountinfo.read(PROC), at):
            with suppress(OSError):
                LinuxMounts().unmount(at, detach=True)
