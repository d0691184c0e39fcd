# SPDX-License-Identifier: Apache-2.0
"""What a process is doing that does not answer, for the log and for people: from /proc alone.

Reads nothing of the process's memory and nothing that it serves. Decides nothing.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agents.hostfs import HostFs

#: State letters of proc_pid_stat(5) that explain why a client does not answer.
_STATES = {
    "T": "its client is stopped (SIGSTOP); SIGCONT lets it go on",
    "t": "its client is stopped by a debugger",
    "D": "its client waits in the kernel, as for a disk or for another mount",
    "Z": "its client has ended",
}
_MAX_TASKS = 64


@dataclass(frozen=True, slots=True)
class Task:
    """One thread: its state letter, the kernel function it sleeps in (`wchan`), and its kernel
    stack, innermost first; empty what the kernel does not tell.
    """

    number: int
    state: str
    wchan: str
    stack: tuple[str, ...]

    def line(self) -> str:
        """For a log."""
        where = " < ".join(self.stack[:8]) or self.wchan or "running"
        return f"{self.number} {self.state} {where}"


def tasks(host: HostFs, pid: int) -> tuple[Task, ...]:
    """The threads of a process (the first of many); empty when it is gone."""
    directory = host.of_pid(pid, "task")
    try:
        numbers = sorted(int(path.name) for path in directory.iterdir())[:_MAX_TASKS]
    except OSError:
        return ()
    return tuple(_task(directory / str(number), number) for number in numbers)


def why(host: HostFs, pid: int) -> str:
    """Why the process may not answer, when its state tells; else empty."""
    return _STATES.get(_state(host.of_pid(pid)), "")


def stopped(host: HostFs, pid: int) -> bool:
    """Whether somebody stopped it: until he lets it go on, it does nothing."""
    return _state(host.of_pid(pid)) in ("T", "t")


def _task(directory: Path, number: int) -> Task:
    wchan = _text(directory / "wchan")
    # Each line is `[<0>] function+0x12/0x34`.
    frames = (line.partition("] ")[2].partition("+")[0] for line in _lines(directory / "stack"))
    stack = tuple(frame for frame in frames if frame)
    return Task(number, _state(directory), "" if wchan == "0" else wchan, stack)


def _state(directory: Path) -> str:
    # The command name may hold blanks and parentheses: the last ")" ends it.
    return _text(directory / "stat").rpartition(")")[2].strip()[:1]


def _lines(path: Path) -> list[str]:
    return _text(path).splitlines()


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(errors="replace").strip()
    return ""
