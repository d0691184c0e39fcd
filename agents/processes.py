# SPDX-License-Identifier: Apache-2.0
"""Processes by identity: a pid alone can be reused, (pid, start time) cannot. Knows no container.

`signal_process` is the only way in which any agent ends a process it did not just start.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, order=True)
class ProcessKey:
    """`start_ticks` is field 22 of `/proc/<pid>/stat`: clock ticks after boot (proc(5))."""

    pid: int
    start_ticks: int


def identify(proc: Path, pid: int) -> ProcessKey | None:
    """The identity of the process that has this pid now; None when there is none (a zombie counts
    as none).
    """
    try:
        stat = (proc / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name may hold blanks and parentheses: the last ")" ends it.
    fields = stat.rpartition(b")")[2].split()
    if len(fields) < 20 or fields[0] in (b"Z", b"X"):
        return None
    return ProcessKey(pid, int(fields[19]))


def exists(pid: int) -> bool:
    """Whether some process has this pid now, whichever it is, in this pid namespace."""
    try:
        os.close(os.pidfd_open(pid))
    except OSError:
        return False
    return True


def pids(proc: Path) -> list[int]:
    """All process ids at this moment."""
    return [int(name) for name in os.listdir(proc) if name.isdigit()]


@contextmanager
def pinned(proc: Path, key: ProcessKey) -> Iterator[int | None]:
    """A pidfd for exactly this process, closed at the end; None when it is gone or its pid was
    reused.

    The start time is compared *after* the descriptor is open: from then on it cannot mean another
    process.
    """
    try:
        descriptor = os.pidfd_open(key.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield descriptor if identify(proc, key.pid) == key else None
    finally:
        os.close(descriptor)


def of_pidfd(proc: Path, descriptor: int) -> int | None:
    """The pid of the process behind a pidfd, as this procfs numbers it; None when it has ended."""
    lines = (proc / "self/fdinfo" / str(descriptor)).read_text().splitlines()
    pid = next(int(line.split()[1]) for line in lines if line.startswith("Pid:"))
    return pid if pid > 0 else None


def signal_process(proc: Path, key: ProcessKey, number: signal.Signals) -> bool:
    """Send a signal to exactly this process.

    False when it is gone (or its pid belongs to another).
    """
    with pinned(proc, key) as descriptor:
        if descriptor is None:
            return False
        try:
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        return True


def wait_exit(descriptor: int, timeout_s: float) -> bool:
    """Wait (blocking, never longer than `timeout_s`) until the process behind a pidfd has ended."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(timeout_s * 1000))
