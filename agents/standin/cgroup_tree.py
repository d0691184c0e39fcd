# SPDX-License-Identifier: Apache-2.0
"""The cgroups of the stand-in's containers, in every hierarchy of this machine: v1, v2 or both.

All of them lie below one parent of our own, whose name begins with `nodeshare`: what is killed and
removed here can never be another's. A limit is written to whichever hierarchy has its file. Knows
no pod: only paths below that parent.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath

from agents.errors import AgentError
from agents.hostfs import HostFs
from agents.processes import wait_exit
from agents.standin import cgroup_limits
from agents.standin.cgroup_limits import Limits

_PARENT = re.compile(r"/?nodeshare[\w.-]*(/[\w-][\w.-]*)*")
_CONTROLLERS = ("cpu", "memory", "cpuset", "pids", "io")
_PAUSE_S = 0.005
_WRITABLE = (
    "run as root where the cgroup tree is mounted read-write"
    " (in a container: privileged, with the host's cgroup namespace)"
)


def hierarchies(cgroup: Path) -> tuple[Path, ...]:
    """The roots of all hierarchies: the one of v2, or every one of v1 and, beside them, v2's."""
    if (cgroup / "cgroup.controllers").exists():
        return (cgroup,)
    if not cgroup.is_dir():
        return ()
    # Of two controllers mounted together one name is the directory, the others are links to it.
    return tuple(
        path
        for path in sorted(cgroup.iterdir())
        if not path.is_symlink() and (path / "cgroup.procs").exists()
    )


def remove_empty(cgroup: Path, path: str, *, timeout_s: float = 1.0) -> bool:
    """Remove one cgroup of ours, in every hierarchy where nothing is in it; whether it is gone.

    One whose name is not ours is left alone. The last process leaves a moment after it has ended.
    """
    if not _PARENT.fullmatch(path):
        return False
    left = [root / path.lstrip("/") for root in hierarchies(cgroup)]
    deadline = time.monotonic() + timeout_s
    while left := [directory for directory in left if not _rmdir(directory)]:
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(_PAUSE_S)
    return True


class CgroupTree:
    """Directories below one parent, the same in every hierarchy. Thread-safe.

    Paths are those of `/proc/<pid>/cgroup`, such as `/nodeshare-demo/kubepods/pod1/c1`.
    """

    def __init__(self, host: HostFs, parent: str) -> None:
        """Raises AgentError for a parent that is not ours to name, or when there are no cgroups."""
        if not _PARENT.fullmatch(parent):
            raise AgentError(
                f"cgroup parent {parent!r} does not begin with 'nodeshare'",
                remedy="give it a name such as nodeshare-demo: all below it is removed in the end",
            )
        self.parent = PurePosixPath("/", parent)
        self._roots = hierarchies(host.cgroup)
        self._changing = threading.Lock()
        if not self._roots:
            raise AgentError(f"no cgroup hierarchy at {str(host.cgroup)!r}", remedy="mount cgroup2")

    @property
    def roots(self) -> tuple[Path, ...]:
        return self._roots

    def directories(self, path: str | PurePosixPath) -> tuple[Path, ...]:
        """The directory of a path in every hierarchy."""
        return tuple(root / self._below_parent(path).relative_to("/") for root in self._roots)

    def create(self, path: str | PurePosixPath, limits: Limits | None = None) -> None:
        """Make the directories with these limits. Raises AgentError when one cannot be made or set.

        A limit whose controller this machine does not have is not set; see `missing`.
        """
        with self._changing:
            for root in self._roots:
                try:
                    self._make(root, self._below_parent(path))
                except OSError as error:
                    raise AgentError(
                        f"cannot make cgroup {str(path)!r} in {str(root)!r}: {error.strerror}",
                        remedy=_WRITABLE,
                    ) from error
            if limits is not None:
                self.limit(path, limits)

    def limit(self, path: str | PurePosixPath, limits: Limits) -> None:
        """Set the limits that are not None. Raises AgentError with the kernel's reason."""
        for directory in self.directories(path):
            limits.write(directory)

    def missing(self, path: str | PurePosixPath) -> frozenset[str]:
        """Which kinds of limits cannot be set for this (existing) cgroup."""
        return cgroup_limits.missing(self.directories(path))

    def processes(self, path: str | PurePosixPath) -> frozenset[int]:
        """All pids in this cgroup or below it, in any hierarchy."""
        return frozenset(
            pid
            for directory in self.directories(path)
            for below in _subtree(directory)
            for pid in _members(below)
        )

    def kill(
        self,
        path: str | PurePosixPath,
        *,
        timeout_s: float,
        spare: Collection[int] = (),
    ) -> tuple[frozenset[int], frozenset[int]]:
        """SIGKILL to all in this cgroup and below, until none is left: who was killed, and who is
        left after `timeout_s`.

        A pid is looked up again once a pidfd holds it: only a process that is in the cgroup at that
        moment is killed. Processes that keep forking are outrun by repetition, and where cgroup v2
        has `cgroup.kill`, by the kernel.
        """
        deadline = time.monotonic() + timeout_s
        killed: frozenset[int] = frozenset()
        while True:
            found = self.processes(path)
            if not found & frozenset(spare):
                self._kill_at_once(path)
            with _pinned(found - frozenset(spare)) as pinned:
                confirmed = {pid: pinned[pid] for pid in self.processes(path) & pinned.keys()}
                for descriptor in confirmed.values():
                    _kill(descriptor)
                killed |= confirmed.keys()
                for descriptor in confirmed.values():
                    wait_exit(descriptor, max(0.0, min(0.2, deadline - time.monotonic())))
            left = self.processes(path) - frozenset(spare)
            if not left or time.monotonic() > deadline:
                return killed | (found - frozenset(spare) - left), left

    def existing(self) -> tuple[str, ...]:
        """All paths at or below our parent that exist in any hierarchy, deepest first."""
        found = {
            f"/{directory.relative_to(root)}"
            for root in self._roots
            for directory in _subtree(root / self.parent.relative_to("/"))
        }
        return tuple(sorted(found, key=lambda path: (-path.count("/"), path)))

    def remove(self, path: str | PurePosixPath, *, timeout_s: float = 2.0) -> tuple[Path, ...]:
        """Remove this cgroup and all below it, everywhere; answers the directories that remain.

        A cgroup whose last process has just died can be busy for a moment.
        """
        with self._changing:
            for directory in self.directories(path):
                deadline = time.monotonic() + timeout_s
                while not _remove_subtree(directory) and time.monotonic() < deadline:
                    threading.Event().wait(_PAUSE_S)
        return tuple(directory for directory in self.directories(path) if directory.exists())

    def prune(self, path: str | PurePosixPath) -> None:
        """Remove the ancestors of a path, up to our parent, that have nothing in them."""
        with self._changing:
            for root in self._roots:
                for level in self._below_parent(path).parents:
                    if level.is_relative_to(self.parent):
                        _rmdir(root / level.relative_to("/"))

    def _below_parent(self, path: str | PurePosixPath) -> PurePosixPath:
        wanted = PurePosixPath(path)
        if not wanted.is_relative_to(self.parent) or ".." in wanted.parts:
            raise AgentError(f"cgroup {str(path)!r} is not below {str(self.parent)!r}")
        return wanted

    def _make(self, root: Path, path: PurePosixPath) -> None:
        directory = root
        for name in path.relative_to("/").parts:
            _enable_controllers(directory)
            directory = directory / name
            directory.mkdir(mode=0o755, exist_ok=True)
            _inherit_cpuset(directory)

    def _kill_at_once(self, path: str | PurePosixPath) -> None:
        for directory in self.directories(path):
            if (directory / "cgroup.kill").exists():  # v2, kernel 5.14
                try:
                    (directory / "cgroup.kill").write_text("1")
                except OSError:
                    pass  # gone meanwhile; the loop around this looks again


def _enable_controllers(directory: Path) -> None:
    """Hand the controllers on to the children (v2). One that cannot be is left out."""
    control = directory / "cgroup.subtree_control"
    if not control.exists():
        return
    available = set((directory / "cgroup.controllers").read_text().split())
    wanted = [name for name in _CONTROLLERS if name in available - set(control.read_text().split())]
    if wanted and not _write(control, " ".join(f"+{name}" for name in wanted)):
        for name in wanted:
            _write(control, f"+{name}")


def _inherit_cpuset(directory: Path) -> None:
    """A new cpuset of v1 is empty, and takes no process before it has CPUs and memory nodes."""
    if (directory / "cpuset.cpu_exclusive").exists():  # only v1 has it
        for name in ("cpuset.cpus", "cpuset.mems"):
            if not (directory / name).read_text().strip():
                (directory / name).write_text((directory.parent / name).read_text())


def _subtree(directory: Path) -> Iterator[Path]:
    """The directory and all below it, deepest first; empty when it is not there."""
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        yield from _subtree(directory / name)
    yield directory


def _members(directory: Path) -> list[int]:
    try:
        text = (directory / "cgroup.procs").read_text()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
            return []  # gone, or a threaded cgroup of v2: its processes are listed above it
        raise
    return [int(line) for line in text.split() if line != "0"]  # 0: not in our pid namespace


@contextmanager
def _pinned(pids: Collection[int]) -> Iterator[dict[int, int]]:
    """A pidfd for each of these pids that exists, closed in the end."""
    with ExitStack() as stack:
        found: dict[int, int] = {}
        for pid in pids:
            try:
                found[pid] = os.pidfd_open(pid)
            except OSError:
                continue
            stack.callback(os.close, found[pid])
        yield found


def _kill(descriptor: int) -> None:
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _remove_subtree(directory: Path) -> bool:
    return all([_rmdir(path) for path in _subtree(directory)])  # noqa: C419 (all are to be tried)


def _rmdir(directory: Path) -> bool:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _write(file: Path, text: str) -> bool:
    try:
        file.write_text(text)
    except OSError:
        return False
    return True
