# SPDX-License-Identifier: Apache-2.0
"""How the root stands, and the next step towards what is configured. Pure.

A new process takes the dead mount of the one before away itself, when it is about to mount: until
then that answers ENOTCONN, and never an empty directory.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.holder_client import HeldClient
from agents.mountinfo import MountEntry

SUBTYPE = "nodeshare-lxcfs"
#: Labels of a process: where it mounts, and what it was told.
ROOT_VARIABLE = "NODESHARE_VIEW_ROOT"
DIGEST_VARIABLE = "NODESHARE_VIEW_ROOT_DIGEST"


@dataclass(frozen=True, slots=True)
class Wanted:
    """`argv` starts the process that serves `root`; `source` is what mount tables say of it."""

    root: Path
    source: str
    argv: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Changes with everything that needs another process."""
        return hashlib.sha256("\0".join(self.argv).encode()).hexdigest()[:8]

    def labels(self) -> dict[str, str]:
        return {ROOT_VARIABLE: str(self.root), DIGEST_VARIABLE: self.digest}


class Step(enum.Enum):
    """What is to be done next."""

    NOTHING = "nothing"
    END = "end the process"
    DETACH = "detach the mount"
    START = "start the process"
    REFUSE = "refuse"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Seen:
    """`stack` is mounted at one place, bottom first; `processes` were started for that place and
    run. `device`: what the process says that it has mounted; None: nothing yet. `occupied`: there
    is something in the directory below, or it is none.
    """

    stack: Sequence[MountEntry]
    processes: Sequence[HeldClient]
    device: tuple[int, int] | None = None
    occupied: bool = False


def is_ours(entry: MountEntry, source: str) -> bool:
    """Whether this is a root of an agent with the same run directory, as a whole."""
    return (entry.fstype, entry.source, entry.root) == (f"fuse.{SUBTYPE}", source, "/")


def decide(seen: Seen, source: str, wanted: Wanted | None) -> Step:
    """The next step at one place; `wanted` None: nothing of ours is to be there."""
    digest = None if wanted is None else wanted.digest
    right = [one for one in seen.processes if one.labels.get(DIGEST_VARIABLE) == digest]
    if len(right) < len(seen.processes) or len(right) > 1:
        return Step.END
    ours = bool(seen.stack) and is_ours(seen.stack[-1], source)
    if wanted is None:
        return Step.DETACH if ours else Step.NOTHING
    if ours and right and seen.stack[-1].device == seen.device:
        return Step.NOTHING
    if (seen.stack and not ours) or (seen.occupied and not right):
        return Step.REFUSE
    return Step.WAIT if right else Step.START


def to_end(seen: Seen, wanted: Wanted | None) -> Sequence[HeldClient]:
    """All that were told something else; of several that were told the same, all but the first."""
    digest = None if wanted is None else wanted.digest
    right = [one for one in seen.processes if one.labels.get(DIGEST_VARIABLE) == digest]
    return [one for one in seen.processes if one not in right[:1]]


def obstacle(seen: Seen, root: Path) -> tuple[str, str]:
    """Why it is refused, and the remedy."""
    if not seen.stack:
        return f"{str(root)!r} holds something else", "empty it, or configure another compat_root"
    top = seen.stack[-1]
    what = f"{str(root)!r} is taken: {top.fstype} {top.source!r} is mounted there"
    if "lxcfs" in top.fstype:
        return what, "stop lxcfs (systemctl disable --now lxcfs), or configure another compat_root"
    return what, f"unmount that (umount {root}), or configure another compat_root"
