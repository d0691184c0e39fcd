# SPDX-License-Identifier: Apache-2.0
"""Why one file stays or goes, and when, in sentences."""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from agents.errors import AgentError
from fuse_mounter.scratch.ages import Ages, last_use
from fuse_mounter.scratch.clocks import reading
from fuse_mounter.scratch.memory import Memory, folder_key
from fuse_mounter.scratch.open_files import open_inodes
from fuse_mounter.scratch.private import recalled
from fuse_mounter.scratch.run import Run, opened
from fuse_mounter.scratch.sizes import size_text

_DAY_S = 86400.0


def explain(run: Run, path: Path) -> Iterator[str]:
    """About a file below the rule's directory. Raises AgentError when it cannot be looked at."""
    try:
        status = path.lstat()
    except OSError as error:
        raise AgentError(
            f"cannot look at {str(path)!r}: {error.strerror}",
            remedy="name a file or a folder that is there",
        ) from error
    clock = reading(run.rule, run.place.entry)
    yield f"{path}: {size_text(status.st_blocks * 512)}, by the rule {run.rule.name!r}"
    yield f"  what counts: {clock.text}"
    for what, at in (
        ("last access", status.st_atime),
        ("last modification", status.st_mtime),
        ("last change of status", status.st_ctime),
    ):
        yield f"  {what}: {_instant(at)}"
    if clock.problem is not None:
        yield f"  nothing goes: {clock.problem}"
    elif (kept := _elsewhere(run, path) or _kept_by(run, path)) is not None:
        yield f"  it stays: {kept}"
    else:
        yield from _judged(run, path, status)


def _judged(run: Run, path: Path, status: os.stat_result) -> Iterator[str]:
    rule, relative = run.rule, str(path.relative_to(run.place.path))
    is_folder = stat.S_ISDIR(status.st_mode)
    age = Ages(rule).of(relative, 0 if is_folder else status.st_blocks * 512)
    if why := _never(run, relative, status):
        yield f"  it stays: {why}"
        return
    if is_folder:
        due = max(status.st_mtime, status.st_ctime) + age
        yield "  it is a folder: it goes when it is empty and was not touched for as long"
        yield f"  that would be at the first run after {_instant(due + rule.grace)}"
    else:
        due = last_use(rule.clock)(status) + age
        yield f"  it is due {age / _DAY_S:g} days after that: {_instant(due)}"
        yield from _goes(run, path, status, due)
    if status.st_ino in open_inodes(run.proc, run.place.entry):
        yield "  it is in use on this node, and stays as long as it is"
    if not rule.armed:
        yield "  the rule is not armed: nothing goes, it is only counted"


def _goes(run: Run, path: Path, status: os.stat_result, due: float) -> Iterator[str]:
    rule, now = run.rule, time.time()
    if rule.keep_free is not None:
        yield "  when space is short it may go earlier, the oldest first"
    if due > now:
        yield "  until then it stays"
        return
    if not rule.grace:
        yield "  it goes at the next run"
        return
    with opened(run.place, run.proc) as root:
        kept = recalled(root, rule.name) or Memory(rule.digest)
    memory = kept.usable(rule.digest, run.now(), rule.longest_pause)
    folder = path.parent.relative_to(run.place.path)
    key = folder_key(path.parent.lstat().st_ino, "" if folder == Path() else str(folder))
    since = memory.told.get(key)
    told = None if since is None else memory.told_of(max(due, since, status.st_ctime), now)
    if told is None or told >= now:
        yield f"  its owner has not been told yet: it goes {rule.grace / _DAY_S:g} days after that"
    else:
        yield (
            f"  its owner has been told since {_instant(told)}: it goes at the first run after "
            f"{_instant(told + rule.grace)}"
        )


def _never(run: Run, relative: str, status: os.stat_result) -> str | None:
    is_folder = stat.S_ISDIR(status.st_mode)
    if Ages(run.rule).of(relative, status.st_blocks * 512) == math.inf:
        return "a rule for its path keeps it for ever"
    if run.rule.users and "/" not in relative:
        return (
            "it is somebody's own folder"
            if is_folder
            else "it lies beside the users' folders, and its owner could not be told"
        )
    if not (is_folder or stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
        return "it is a socket, a pipe or a device"
    return None


def _elsewhere(run: Run, path: Path) -> str | None:
    """What a walk would never come to: behind a link, or in another mount."""
    inside = [path, *path.parents]
    for folder in inside[: inside.index(run.place.path)]:
        if str(folder.relative_to(run.place.path)) in run.place.mounts:
            return f"{str(folder)!r} is another mount"
        if folder != path and folder.is_symlink():
            return f"{str(folder)!r} is a link, and none is followed"
    return None


def _kept_by(run: Run, path: Path) -> str | None:
    name = run.rule.keep_file
    if name is None:
        return None
    for folder in path.parents:
        if folder == run.place.path or not folder.is_relative_to(run.place.path):
            return None
        if os.path.lexists(folder / name):
            return f"{str(folder / name)!r} keeps that folder with all in it"
    return None


def _instant(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
