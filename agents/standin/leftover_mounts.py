# SPDX-License-Identifier: Apache-2.0
"""Detaches the mounts below a run's directory, with servers that may be dead or hang.

Asks the kernel's mount table only: no file system that is to go is ever entered or looked at. Knows
no process and no cgroup.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from agents import mountinfo
from agents.hostfs import HostFs
from agents.mountinfo import MountEntry
from agents.mounts import LinuxMounts, Propagation

_ACT_S = 2.0
_MAX_ROUNDS = 1000


def within(path: str, directory: Path) -> bool:
    """Whether a path is this directory or lies below it, by name alone."""
    return path == str(directory) or path.startswith(f"{directory}/")


class LeftoverMounts:
    """The mounts below (not at) one directory: that one may be a mount of the user's own making."""

    def __init__(self, directory: Path, host: HostFs) -> None:
        self._directory, self._host = directory, host
        self._mounts = LinuxMounts()

    def detach(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Lazily unmount all of them: the mount points freed, and those that resist.

        From the outermost inwards, because a mount goes together with those inside it: no path then
        leads through a file system that hangs. The last mounted goes first, because it may cover
        others.
        """
        detached: list[str] = []
        for _ in range(_MAX_ROUNDS):
            ours, others = self._look()
            if not ours:
                break
            inside = {entry.mount_id for entry in ours}
            outermost = [entry for entry in reversed(ours) if entry.parent_id not in inside]
            if not [entry for entry in outermost if self._detach(entry, ours, others)]:
                return tuple(detached), tuple(entry.mount_point for entry in ours)
            left = {entry.mount_id for entry in self._look()[0]}
            detached += [entry.mount_point for entry in ours if entry.mount_id not in left]
        return tuple(detached), tuple(entry.mount_point for entry in self._look()[0])

    def abort_connections(self) -> None:
        """End the FUSE connections that are mounted here and nowhere else: whoever waits gets an
        error."""
        ours, others = self._look()
        elsewhere = {entry.device for entry in others}
        fuse = [entry for entry in ours if entry.fstype.partition(".")[0] in ("fuse", "fuseblk")]
        numbers = {entry.device[1] for entry in fuse if entry.device not in elsewhere}
        if not numbers:
            return
        if any(self._host.fuse_connections.iterdir()):
            _abort(self._host.fuse_connections, numbers)
            return
        # This machine has not mounted fusectl.
        with TemporaryDirectory(prefix="nodeshare-fusectl-") as name:
            place = Path(name)
            self._mounts.mount("fusectl", place, "fusectl")
            try:
                _abort(place, numbers)
            finally:
                self._mounts.unmount(place, detach=True)

    def _look(self) -> tuple[list[MountEntry], list[MountEntry]]:
        """The mounts below the directory, and all others."""
        ours: list[MountEntry] = []
        others: list[MountEntry] = []
        for entry in mountinfo.read(self._host.proc):
            below = entry.mount_point.startswith(f"{self._directory}/")
            (ours if below else others).append(entry)
        return ours, others

    def _detach(
        self, entry: MountEntry, ours: Iterable[MountEntry], others: Iterable[MountEntry]
    ) -> bool:
        target = Path(entry.mount_point)
        # What is unmounted inside a mount goes in all its peers too. A bind of somebody else's tree
        # must not take that along: it leaves the group first.
        groups = {other.shared for other in others} - {None}
        alone = not any(
            inner.shared in groups for inner in ours if within(inner.mount_point, target)
        )

        def act() -> None:
            if not alone:
                self._mounts.set_propagation(target, Propagation.PRIVATE, recursive=True)
            self._mounts.unmount(target, detach=True)

        if (result := _bounded(act)) is None:
            self.abort_connections()
            result = _bounded(act)
        return result is True


def _abort(connections: Path, numbers: Iterable[int]) -> None:
    for number in numbers:
        try:
            (connections / str(number) / "abort").write_text("1")
        except OSError:
            pass  # it has ended meanwhile


def _bounded(act: Callable[[], None]) -> bool | None:
    """Whether the act succeeded; None when it did not end in time (its thread is left behind)."""
    outcome: list[bool] = []

    def attempt() -> None:
        try:
            act()
            outcome.append(True)
        except OSError:
            outcome.append(False)

    thread = threading.Thread(target=attempt, name="detach a leftover mount", daemon=True)
    thread.start()
    thread.join(_ACT_S)
    return outcome[0] if outcome else None
