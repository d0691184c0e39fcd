# SPDX-License-Identifier: Apache-2.0
"""Mounts that pods see: the shared root, anchors, attaching and detaching. Decides nothing, and
knows no client.

A new layer is slipped *beneath* the present top, which is then lazily detached: pods that run go
from the old to the new without a moment in which they see neither. Kernels before 6.5 have no
BENEATH; there a top is covered, so that no moment shows what lies below it, until the stack is as
high as it may be: then the top is detached first, and pods see what it covered for a moment.
"""

from __future__ import annotations

import enum
import errno
import os
from pathlib import Path

from agents import mountinfo
from agents.errors import AgentError
from agents.hostfs import HostFs
from agents.mountinfo import MountEntry
from agents.mounts import MountFlag, Mounts, Propagation
from fuse_mounter.places import ANCHOR_SOURCE, Places

#: Without BENEATH a live mount is covered until this many lie on each other, the anchor included;
#: a dead one only when it lies on the anchor.
MAX_LAYERS = 5
_ANCHOR = "anchor"
_README = """\
Nothing is mounted here yet.

This read-only directory holds the place of a file system that the node's agent mounts. When it is
mounted, its files appear here, also in pods that already run. What you would write here now would
otherwise end up on the disk of the node, and be hidden later.
"""
_NOT_BENEATH = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


class Way(enum.Enum):
    """How a layer came to its place."""

    FIRST = "first"  # there was nothing but the anchor
    BENEATH = "beneath"
    OVER = "over"
    DETACH = "detach"  # the old top first
    ADOPTED = "adopted"  # by an agent before this one


class Publisher:
    """Every call is short, and raises OSError or AgentError."""

    def __init__(self, places: Places, mounts: Mounts, host: HostFs) -> None:
        self._places, self._mounts, self._host = places, mounts, host
        self._mountinfo = mountinfo.Watched(host.proc)

    def table(self) -> tuple[MountEntry, ...]:
        """All mounts, as we see them."""
        return self._mountinfo.read()

    def prepare(self) -> None:
        """Directories, and a private place for staging: nothing there shows up anywhere else."""
        for directory in (self._places.root, self._places.staging, self._places.log("x").parent):
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._own_mount(self._places.staging, Propagation.PRIVATE)
        self.clear_staging(_ANCHOR)  # of an agent that died while it made one

    def prepare_root(self) -> None:
        """The root as a shared mount of its own: what is mounted below reaches the pods."""
        self._places.root.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._own_mount(self._places.root, Propagation.SHARED)

    def _own_mount(self, path: Path, kind: Propagation) -> None:
        stack = mountinfo.at(self.table(), path)
        if not stack:
            self._mounts.bind(path, path)
            self._mounts.set_propagation(path, Propagation.PRIVATE)
        if not stack or (stack[-1].shared is not None) is not (kind is Propagation.SHARED):
            self._mounts.set_propagation(path, kind)

    def target(self, path: str) -> Path:
        return self._places.root / path

    def staging(self, name: str) -> Path:
        return self._places.staging / name

    def place_anchor(self, path: str) -> None:
        """A read-only tmpfs with one README, made aside and attached complete."""
        target, aside = self.target(path), self.staging(_ANCHOR)
        target.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.clear_staging(_ANCHOR)
        aside.mkdir(mode=0o755)
        try:
            self._mounts.mount(ANCHOR_SOURCE, aside, "tmpfs", data="mode=0555,size=16k,nr_inodes=4")
            (aside / "README").write_text(_README)
            flags = MountFlag.REMOUNT | MountFlag.RDONLY
            self._mounts.mount(ANCHOR_SOURCE, aside, "tmpfs", flags, "mode=0555,size=16k")
            self._attach(aside, target)
        finally:
            self.clear_staging(_ANCHOR)

    def publish(self, staging: str, path: str, top: MountEntry | None, *, alive: bool) -> Way:
        """Attach what is staged at `path`, in the place of `top`, which is `alive` or not."""
        aside, target = self.staging(staging), self.target(path)
        if top is None:
            self._attach(aside, target)
            return Way.FIRST
        try:
            self._attach(aside, target, beneath=True)
        except OSError as error:
            if error.errno not in _NOT_BENEATH:
                raise
            return self._publish_by_ladder(aside, target, top, alive=alive)
        self._detach(target, top.mount_id)
        return Way.BENEATH

    def _publish_by_ladder(self, aside: Path, target: Path, top: MountEntry, *, alive: bool) -> Way:
        height = len(mountinfo.at(self.table(), target))
        if height <= 2 or (alive and height < MAX_LAYERS):
            self._attach(aside, target)
            return Way.OVER
        self._detach(target, top.mount_id)
        self._attach(aside, target)
        return Way.DETACH

    def _attach(self, aside: Path, target: Path, *, beneath: bool = False) -> None:
        """A copy: the mount at `aside` stays."""
        try:
            copy = self._mounts.clone(aside)
        except OSError as error:
            if beneath or error.errno != errno.ENOSYS:
                raise
            self._mounts.bind(aside, target)  # before kernel 5.2
            return
        try:
            self._mounts.attach(copy, target, beneath=beneath)
        finally:
            os.close(copy)

    def detach_top(self, path: str, mount_id: int) -> None:
        """Lazily: whoever is in it stays in it. Nothing happens when another mount is on top."""
        self._detach(self.target(path), mount_id)

    def _detach(self, target: Path, mount_id: int) -> None:
        stack = mountinfo.at(self.table(), target)
        if stack and stack[-1].mount_id == mount_id:
            self._mounts.unmount(target, detach=True)

    def remove_anchor(self, path: str, mount_id: int) -> None:
        """And the directories that were made for it, up to the root."""
        self.detach_top(path, mount_id)
        target = self.target(path)
        while target != self._places.root and not mountinfo.at(self.table(), target):
            try:
                target.rmdir()
            except OSError:
                return  # something else is in it
            target = target.parent

    def make_staging(self, name: str) -> Path:
        path = self.staging(name)
        path.mkdir(mode=0o755)
        return path

    def clear_staging(self, name: str) -> None:
        """Unmount what is staged under this name, and remove its directory."""
        path = self.staging(name)
        for _ in mountinfo.at(self.table(), path):
            self._mounts.unmount(path, detach=True)
        if path.is_dir():
            path.rmdir()

    def obstacle(self, path: str) -> str | None:
        """Why nothing can be mounted here. Looks only at directories of the root itself."""
        place = self._places.root
        for part in Path(path).parts:
            place = place / part
            if place.is_symlink() or (place.exists() and not place.is_dir()):
                kind = "a symlink" if place.is_symlink() else "not a directory"
                return f"{str(place)!r} is {kind}; remove it, and the mount will appear there"
        return None

    def connections(self) -> Path:
        """Where fusectl is mounted; on our own private place when it is nowhere."""
        table = self.table()
        for path in (self._host.fuse_connections, self._places.fusectl):
            if any(entry.fstype == "fusectl" for entry in mountinfo.at(table, path)):
                return path
        own = self._places.fusectl
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._mounts.mount("fusectl", own, "fusectl")
        self._mounts.set_propagation(own, Propagation.PRIVATE)
        return own

    def anything_left(self) -> bool:
        """Whether an agent before this one has made a mount of the root, or a staging place."""
        table, places = self.table(), self._places
        return any(mountinfo.at(table, place) for place in (places.root, places.staging))

    def remove_everything(self) -> None:
        """The root mount, the staging place and fusectl, when nothing else is mounted there."""
        for path in (self._places.root, self._places.staging, self._places.fusectl):
            others = [e for e in mountinfo.below(self.table(), path) if e.mount_point != str(path)]
            if others:
                raise AgentError(
                    f"{others[0].mount_point!r} is still mounted",
                    remedy=f"it is not ours; unmount it, then {str(path)!r} can go too",
                )
            for _ in mountinfo.at(self.table(), path):
                self._mounts.unmount(path, detach=True)
            if path.is_dir():
                _remove_empty(path)


def _remove_empty(path: Path) -> None:
    try:
        path.rmdir()
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
