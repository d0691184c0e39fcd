# SPDX-License-Identifier: Apache-2.0
"""Debian's lxcfs, served on a directory of a test."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agents import mountinfo
from agents.hostfs import PROC
from agents.mounts import LinuxMounts
from tests.fakes.real_container import eventually

#: What lxcfs has and what runtimes allow to be mounted there, as its admission webhooks mount it.
_SHOWN = [f"proc/{name}" for name in ("cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime")]
_SHOWN += ["sys/devices/system/cpu/online"]
#: Where it makes mount points of its own, and leaves them.
_OWN = Path("/run/lxcfs")


@contextmanager
def lxcfs(directory: Path) -> Iterator[dict[str, Path] | None]:
    """What a container binds of it, by place; None: it is not installed. CPUs are shown by quota,
    which has to be asked for."""
    program = shutil.which("lxcfs")
    if program is None:
        yield None
        return
    root = directory / "lxcfs"
    root.mkdir()
    was_there = _OWN.exists()
    argv = [program, "-f", "--enable-cfs", "-p", f"{root}.pid", str(root)]
    daemon = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually((root / "proc/meminfo").exists, "lxcfs serves", 30)
        yield {f"/{path}": root / path for path in _SHOWN}
    finally:
        daemon.terminate()
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait(10)
        for _ in mountinfo.at(mountinfo.read(PROC), root):
            with suppress(OSError):
                LinuxMounts().unmount(root, detach=True)
        if not was_there and _OWN.exists():
            for place in (*_OWN.iterdir(), _OWN):
                place.rmdir()
