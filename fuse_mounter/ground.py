# SPDX-License-Identifier: Apache-2.0
"""What all mounts stand on: the shared root that pods bind, and the place where clients mount.
Checked, repaired where that is ours to do, and else refused with the remedy. Knows no mount.

Agent and holder in one mount namespace (a bare machine): the root is bound onto itself and made
shared, and staging is private, so that nothing there shows up anywhere else. In two (pods of their
own) both lie on mounts that the host lends to them, with propagation in both directions: what a
client mounts in the holder's pod appears in the agent's, and what the agent attaches below the root
appears on the host. User pods bind the root alone; they never see the staging place.
"""

from __future__ import annotations

import errno
import stat
from contextlib import suppress
from pathlib import Path

from agents import mountinfo
from agents.errors import AgentError
from agents.hostfs import HostFs
from agents.mountinfo import MountEntry
from agents.mounts import Mounts, Propagation
from fuse_mounter.places import Places

_FOR_ROOT = 0o700
_BIDIRECTIONAL = "mount it from the host with mountPropagation: Bidirectional"


class Ground:
    """Every call is short."""

    def __init__(self, places: Places, mounts: Mounts, host: HostFs) -> None:
        self._places, self._mounts, self._host = places, mounts, host
        self._mountinfo = mountinfo.Watched(host.proc)
        #: Root and staging are lent to us, and shared with the host.
        self.contained = False

    def table(self) -> tuple[MountEntry, ...]:
        """All mounts, as we see them."""
        return self._mountinfo.read()

    def prepare(self, holder_pid: int | None) -> None:
        """Directories, and the staging place for clients of the holder with this pid (None: one in
        our own mount namespace). Raises AgentError.
        """
        foreign = holder_pid is not None and self._elsewhere(holder_pid)
        self.contained = foreign or self._elsewhere(1)
        _make("fuse_mounter.root", self._places.root)
        for directory in (
            self._places.staging,
            self._places.log("x").parent,
            self._places.clients,
        ):
            _make("node.run_dir", directory)
        # Whole mounts lie there, whatever of them is published, and for whom.
        if stat.S_IMODE(self._places.staging.stat().st_mode) != _FOR_ROOT:
            self._places.staging.chmod(_FOR_ROOT)
        if not foreign:
            self._own_mount(self._places.staging, Propagation.PRIVATE)
            return
        assert holder_pid is not None
        self._check_shared(holder_pid)

    def prepare_root(self) -> None:
        """The root as a shared mount: what is mounted below reaches the pods. Raises AgentError."""
        _make("fuse_mounter.root", self._places.root)
        if self.contained:
            self._check_root()
            return
        self._own_mount(self._places.root, Propagation.SHARED)
        if mountinfo.at(self.table(), self._places.root)[-1].shared is None:
            raise AgentError(
                f"{str(self._places.root)!r} cannot be made a shared mount",
                remedy=f"see what covers it: findmnt {self._places.root}",
            )

    def _own_mount(self, path: Path, kind: Propagation) -> None:
        stack = mountinfo.at(self.table(), path)
        try:
            if not stack:
                self._mounts.bind(path, path)
                self._mounts.set_propagation(path, Propagation.PRIVATE)
            if not stack or (stack[-1].shared is not None) is not (kind is Propagation.SHARED):
                self._mounts.set_propagation(path, kind)
        except OSError as error:
            raise AgentError(
                f"cannot make {str(path)!r} a {kind.name.lower()} mount: {error.strerror}",
                remedy="the agent needs CAP_SYS_ADMIN (privileged: true)",
            ) from error

    def _elsewhere(self, pid: int) -> bool:
        """Whether this process has another mount namespace. In doubt (a container without the
        host's pid namespace sees its own pid 1) it has not.
        """
        with suppress(OSError):
            own, other = ((self._host.proc / one / "ns/mnt") for one in ("self", str(pid)))
            return own.stat().st_ino != other.stat().st_ino
        return False

    def _check_root(self) -> None:
        root = self._places.root
        found = mountinfo.covering(self.table(), root)
        groups = self._groups_of(1)
        if found is None or found.shared is None or (groups and found.shared not in groups):
            raise AgentError(
                f"what is mounted below fuse_mounter.root {str(root)!r} would never leave this "
                "container, so no pod would see it",
                remedy=_BIDIRECTIONAL,
            )

    def _groups_of(self, pid: int) -> frozenset[int]:
        """The peer groups that a process sees; empty when that cannot be known."""
        with suppress(OSError):
            entries = mountinfo.read(self._host.proc, pid)
            return frozenset(entry.shared for entry in entries if entry.shared is not None)
        return frozenset()

    def _check_shared(self, holder_pid: int) -> None:
        """A mount of a client appears at the same path here, and the other way round."""
        place = self._places.staging
        ours = mountinfo.covering(self.table(), place)
        theirs = mountinfo.covering(mountinfo.read(self._host.proc, holder_pid), place)
        if ours is None or theirs is None or ours.shared is None or ours.shared != theirs.shared:
            raise AgentError(
                f"the holder (pid {holder_pid}) has another mount namespace, and {str(place)!r} is "
                "not shared with it: what its clients mount would never be seen here",
                remedy=f"node.run_dir: in both pods {_BIDIRECTIONAL}, at the same path",
            )

    def anything_left(self) -> bool:
        """Whether an agent before this one left a mount, or a staging place."""
        below = mountinfo.below(self.table(), self._places.root)
        if any(entry.mount_point != str(self._places.root) for entry in below):
            return True
        try:
            return any(True for _ in self._places.staging.iterdir())
        except OSError:
            return False

    def remove(self) -> None:
        """The root mount, the staging place and fusectl, when nothing else is mounted there. Raises
        AgentError.
        """
        lent = {self._places.root} if self.contained else set()
        for path in (self._places.root, self._places.staging, self._places.fusectl):
            others = [e for e in mountinfo.below(self.table(), path) if e.mount_point != str(path)]
            if others:
                raise AgentError(
                    f"{others[0].mount_point!r} is still mounted",
                    remedy=f"it is not ours; unmount it, then {str(path)!r} can go too",
                )
            if path in lent:
                continue
            for _ in mountinfo.at(self.table(), path):
                self._mounts.unmount(path, detach=True)
            if path.is_dir():
                _remove_empty(path)


def _make(key: str, path: Path) -> None:
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise AgentError(
            f"{key}: {str(path)!r} is not a directory", remedy="remove it, or name another place"
        ) from error
    except OSError as error:
        remedy = "name a place on a disk that can be written"
        if error.errno == errno.ENOSPC:
            remedy = "make room on its disk"
        raise AgentError(
            f"{key}: cannot make {str(error.filename or path)!r}: {error.strerror}", remedy=remedy
        ) from error


def _remove_empty(path: Path) -> None:
    try:
        path.rmdir()
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
