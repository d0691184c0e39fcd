# SPDX-License-Identifier: Apache-2.0
"""Children that are not ours: the first process of a container inherits everybody whose parent
ended, as what `kubectl exec` left behind, and is the only one who can reap them.

Knows no child of ours beyond its number: who started it reaps it, and wants to know how it ended.
"""

from __future__ import annotations

import os
from pathlib import Path

import trio

from agents import command
from agents.hostfs import PROC

#: The first process of a pid namespace.
INIT = 1
_LOOK_EVERY_S = 5.0


async def keep_reaped(proc: Path = PROC) -> None:
    """Reap what ended and is nobody's, for ever; `proc` shows our own pid namespace."""
    seen: frozenset[int] = frozenset()
    while True:
        seen = reap(proc, seen)
        await trio.sleep(_LOOK_EVERY_S)


def reap(proc: Path, seen: frozenset[int]) -> frozenset[int]:
    """Reap those who had ended at the last look already, which gave `seen`. Gives those to be
    reaped at the next one.

    One look is not enough: another thread may have forked, and not yet told whose child it is.
    """
    if not _any_ended():
        return frozenset()
    ended = _ended(proc, os.getpid()) - command.running()
    for pid in ended & seen:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass  # whoever started it was faster
    return frozenset(ended - seen)


def _any_ended() -> bool:
    """Whether any child waits to be reaped; it goes on waiting."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def _ended(proc: Path, parent: int) -> set[int]:
    """Children of `parent` that ended and were not reaped (proc_pid_stat(5): state and parent)."""
    found = set()
    for name in os.listdir(proc):
        if not name.isdigit():
            continue
        try:
            fields = (proc / name / "stat").read_bytes().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] == b"Z" and int(fields[1]) == parent:
            found.add(int(name))
    return found
