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


@dataclass(frozen=True, slots=True)
class Stat:
    """What `/proc/<pid>/stat` tells of a process that runs. `command` is its program's name (comm).

    `leader_ended`: its first thread ended and others run on. Then procfs tells nothing of it but
    this: no mounts, and with v1 the root as its cgroup (cgroups(7)); `task/<tid>/` still does.
    """

    key: ProcessKey
    command: str
    leader_ended: bool


def parse_stat(text: bytes) -> Stat | None:
    """None: it has ended, and only waits for its parent."""
    # The command name may hold blanks and parentheses: the last ")" ends it.
    head, _, tail = text.rpartition(b")")
    fields = tail.split()
    if len(fields) < 20:
        return None
    ended = fields[0] in (b"Z", b"X")
    if ended and int(fields[17]) < 2:
        return None
    pid, _, command = head.partition(b" (")
    return Stat(ProcessKey(int(pid), int(fields[19])), os.fsdecode(command), ended)


def speaking_thread(proc: Path, pid: int) -> int | None:
    """A thread that runs on in a process whose first one ended: `<pid>/task/<it>` tells what
    `<pid>` does not any more. None: the first one runs, or none does.
    """
    try:
        stat = parse_stat((proc / str(pid) / "stat").read_bytes())
        if stat is None or not stat.leader_ended:
            return None
        tasks = proc / str(pid) / "task"
        for thread in sorted(map(int, os.listdir(tasks)), reverse=True):
            told = parse_stat((tasks / str(thread) / "stat").read_bytes())
            if told is not None and not told.leader_ended:
                return thread
    except (FileNotFoundError, ProcessLookupError):
        pass
    return None


def identify(proc: Path, pid: int) -> ProcessKey | None:
    """The identity of the process that has this pid now; None when there is none (a zombie counts
    as none, unless it is the first thread of a process whose others run on).
    """
    try:
        stat = parse_stat((proc / str(pid) / "stat").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if stat is None else stat.key


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
