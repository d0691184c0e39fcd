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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agents import mountinfo
from agents.errors import AgentError
from agents.hostfs import HostFs
from agents.mountinfo import MountEntry
from agents.mounts import MountAttribute, MountFlag, Mounts, Propagation
from fuse_mounter.ground import Ground
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


@dataclass(frozen=True, slots=True)
class Piece:
    """What is to be attached: what is mounted in a staging directory, or a copy of a folder in it
    that was made already (a detached mount; who made it closes it).
    """

    staging: str
    copy: int | None = None
    read_only: bool = False


class Publisher:
    """Every call is short, and raises OSError or AgentError."""

    def __init__(self, places: Places, mounts: Mounts, host: HostFs) -> None:
        self._places, self._mounts, self._host = places, mounts, host
        self.ground = Ground(places, mounts, host)
        self._anchor_aside = False

    def table(self) -> tuple[MountEntry, ...]:
        """All mounts, as we see them."""
        return self.ground.table()

    def prepare(self, holder_pid: int | None = None) -> None:
        """Directories, and the staging place for clients of this holder (None: of one in our own
        mount namespace).
        """
        self.ground.prepare(holder_pid)
        self.clear_staging(_ANCHOR)  # of an agent that died while it made one

    def target(self, path: str) -> Path:
        return self._places.root / path

    def staging(self, name: str) -> Path:
        return self._places.staging / name

    def place_anchor(self, path: str) -> None:
        """A read-only tmpfs with one README, made aside and attached complete. All that are placed
        before it is put away are the same.
        """
        target = self.target(path)
        target.mkdir(mode=0o755, parents=True, exist_ok=True)
        if not self._anchor_aside:
            self._make_anchor()
        self._attach(Piece(_ANCHOR), target)

    def _make_anchor(self) -> None:
        aside = self.staging(_ANCHOR)
        self.clear_staging(_ANCHOR)
        aside.mkdir(mode=0o755)
        self._anchor_aside = True
        try:
            self._mounts.mount(ANCHOR_SOURCE, aside, "tmpfs", data="mode=0555,size=16k,nr_inodes=4")
            (aside / "README").write_text(_README)
            flags = MountFlag.REMOUNT | MountFlag.RDONLY
            self._mounts.mount(ANCHOR_SOURCE, aside, "tmpfs", flags, "mode=0555,size=16k")
        except OSError:
            self.put_anchor_away()
            raise

    def put_anchor_away(self) -> None:
        """After all that were needed are placed."""
        if self._anchor_aside:
            self._anchor_aside = False
            self.clear_staging(_ANCHOR)

    def publish(self, piece: Piece, path: str, top: MountEntry | None, *, alive: bool) -> Way:
        """Attach it at `path`, in the place of `top`, which is `alive` or not."""
        target = self.target(path)
        if top is None:
            self._attach(piece, target)
            return Way.FIRST
        try:
            self._attach(piece, target, beneath=True)
        except OSError as error:
            if error.errno not in _NOT_BENEATH:
                raise
            return self._publish_by_ladder(piece, target, top, alive=alive)
        self._detach(target, top.mount_id)
        return Way.BENEATH

    def _publish_by_ladder(
        self, piece: Piece, target: Path, top: MountEntry, *, alive: bool
    ) -> Way:
        height = len(mountinfo.at(self.table(), target))
        if height <= 2 or (alive and height < MAX_LAYERS):
            self._attach(piece, target)
            return Way.OVER
        self._detach(target, top.mount_id)
        self._attach(piece, target)
        return Way.DETACH

    def _attach(self, piece: Piece, target: Path, *, beneath: bool = False) -> None:
        """A copy: the mount that is staged stays."""
        if piece.copy is not None:
            self._attach_copy(piece.copy, piece, target, beneath=beneath)
            return
        aside = self.staging(piece.staging)
        try:
            copy = self._mounts.clone(aside)
        except OSError as error:
            if beneath or error.errno != errno.ENOSYS or piece.read_only:
                raise
            self._mounts.bind(aside, target)  # before kernel 5.2
            return
        try:
            self._attach_copy(copy, piece, target, beneath=beneath)
        finally:
            os.close(copy)

    def _attach_copy(self, copy: int, piece: Piece, target: Path, *, beneath: bool) -> None:
        if piece.read_only or self.ground.contained:
            self._set_attributes(copy, piece)
        self._mounts.attach(copy, target, beneath=beneath)

    def _set_attributes(self, copy: int, piece: Piece) -> None:
        attributes = MountAttribute.RDONLY if piece.read_only else MountAttribute.NONE
        # A copy of a mount that is shared with the holder would be its peer: what somebody mounts
        # over the one in the root would appear in the staging place too.
        propagation = Propagation.PRIVATE if self.ground.contained else None
        try:
            self._mounts.set_attributes(copy, attributes, propagation=propagation)
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            if self.ground.contained:
                raise AgentError(
                    "this kernel cannot change a copy of a mount (Linux 5.12 can)",
                    remedy="run agent and holder in one mount namespace, as on a bare machine",
                ) from error
            raise AgentError(
                "this kernel cannot make one name of a mount read-only (Linux 5.12 can)",
                remedy="make the whole mount read_only",
            ) from error

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
        self.remove_place(path)

    def remove_place(self, path: str) -> None:
        """The directories that were made for a mount, up to the root, if nothing is in them."""
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
        # No look before: at what is still mounted, that might hang; this only fails.
        with suppress(FileNotFoundError):
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
