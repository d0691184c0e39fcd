# SPDX-License-Identifier: Apache-2.0
"""The passthrough file system as a process, mounted for one test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agents import mountinfo
from agents.hostfs import PROC
from agents.mounts import LinuxMounts
from tests.fakes.mount_node import eventually


@dataclass(frozen=True, slots=True)
class Mounted:
    """`below` is served at `at`."""

    below: Path
    at: Path
    process: subprocess.Popen[bytes]

    def descriptors(self) -> int:
        """How many the server holds."""
        return len(list((PROC / str(self.process.pid) / "fd").iterdir()))


@contextmanager
def passthrough(below: Path, at: Path, *options: str) -> Iterator[Mounted]:
    """Mount, and at the end unmount and see the server end well."""
    below.mkdir(exist_ok=True)
    at.mkdir(exist_ok=True)
    argv = [sys.executable, "-P", "-m", "fuse_mounter.passthrough", str(below), str(at), *options]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE)
    try:
        eventually(lambda: mountinfo.at(mountinfo.read(PROC), at), f"mounted at {at}")
        yield Mounted(below, at, process)
        LinuxMounts().unmount(at, detach=True)
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, b""), errors
    finally:
        process.kill()
        process.communicate(timeout=20)
        for _ in mountinfo.at(mountinfo.read(PROC), at):
            with suppress(OSError):
                LinuxMounts().unmount(at, detach=True)
