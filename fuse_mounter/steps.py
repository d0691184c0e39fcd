# SPDX-License-Identifier: Apache-2.0
"""The steps that a plan is made of: each is small, and says all that whoever takes it has to know
to look again at what he is about to touch. Values alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from agents.processes import ProcessKey
from fuse_mounter.observed import Layer


@dataclass(frozen=True, slots=True)
class PrepareRoot:
    """Make the root a shared mount of its own."""


@dataclass(frozen=True, slots=True)
class PlaceAnchor:
    """Put the read-only bottom under a path."""

    path: str


@dataclass(frozen=True, slots=True)
class Start:
    """Begin a new instance."""

    name: str


@dataclass(frozen=True, slots=True)
class Publish:
    """Attach a staged instance at a path: beneath the present top, if there is one."""

    name: str
    staging: str
    path: str
    top: Layer | None


@dataclass(frozen=True, slots=True)
class DetachTop:
    """Lazily take away exactly this mount, which is on top."""

    path: str
    mount_id: int


@dataclass(frozen=True, slots=True)
class Abort:
    """Break a hung FUSE connection: its callers get an error instead of waiting for ever."""

    staging: str
    device: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Kill:
    """End a client that is of no use any more."""

    client: ProcessKey


@dataclass(frozen=True, slots=True)
class Terminate:
    """Ask a client to end."""

    client: ProcessKey


@dataclass(frozen=True, slots=True)
class Retire:
    """Take an instance's staging mount and directory away; its client serves open files on."""

    staging: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop the holder's record of a client that ended."""

    client: ProcessKey


@dataclass(frozen=True, slots=True)
class RemoveAnchor:
    """Take the last mount of a path away, and the path."""

    path: str
    mount_id: int


@dataclass(frozen=True, slots=True)
class RemovePlace:
    """Take an empty directory away whose anchor somebody took: pods could write to it."""

    path: str


Action = (
    PrepareRoot
    | PlaceAnchor
    | Start
    | Publish
    | DetachTop
    | Abort
    | Kill
    | Terminate
    | Retire
    | Forget
    | RemoveAnchor
    | RemovePlace
)
