# SPDX-License-Identifier: Apache-2.0
"""What drivers look for before they start anything: programs, the FUSE device, files of
credentials. Every answer is None (it is there), or an error with the remedy: `a or b` is the first
problem of the two.

Looks at this node's own disk and at kernel file systems only, so nothing here can hang on a server.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from pathlib import Path

from agents.errors import AgentError, Unavailable
from agents.hostfs import HostFs


def fuse(host: HostFs) -> AgentError | None:
    """The kernel's FUSE device."""
    if host.fuse_device.exists():
        return None
    return Unavailable(
        f"{str(host.fuse_device)!r} is missing",
        remedy="load the kernel module (modprobe fuse) and give the agent the device",
    )


def program(*names: str, package: str) -> AgentError | None:
    """One of these programs; `package` is where it comes from."""
    if any(shutil.which(name) for name in names):
        return None
    return Unavailable(f"no program {' or '.join(names)}", remedy=f"install {package}")


def which(*names: str) -> str:
    """The first of these programs that is there; the last one when none is."""
    return next((name for name in names if shutil.which(name)), names[-1])


def helper(path: Path, package: str) -> AgentError | None:
    """A program at exactly this place: the client looks nowhere else."""
    if os.access(path, os.X_OK):
        return None
    return Unavailable(f"{str(path)!r} cannot be executed", remedy=f"install {package}")


def readable(path: Path, key: str) -> AgentError | None:
    """A file that the client reads."""
    if os.access(path, os.R_OK) and path.is_file():
        return None
    return Unavailable(
        f"{key}: {str(path)!r} is not a file that can be read",
        remedy="put the file there, or name the place where it is",
    )


def of_the_node(kind: str, host: HostFs) -> bool:
    """Whether our namespace of this kind (`pid`, `net`) is that of the node's first process; so as
    long as nothing else is known.
    """
    try:
        own, first = ((host.of_pid(pid) / "ns" / kind).stat().st_ino for pid in (os.getpid(), 1))
    except OSError:
        return True
    return own == first


def secret(path: Path, key: str, *, owner: str | None = None) -> AgentError | None:
    """A file of credentials: there, regular, and for its owner alone (as its client demands), who
    is `owner` (None: whoever we are).
    """
    try:
        found = path.stat()
    except OSError as error:
        return Unavailable(
            f"{key}: {str(path)!r} cannot be read: {error.strerror}",
            remedy="put the file there, or name the place where it is",
        )
    if not stat.S_ISREG(found.st_mode):
        return Unavailable(f"{key}: {str(path)!r} is not a file", remedy="name a regular file")
    if found.st_mode & 0o077:
        return Unavailable(
            f"{key}: {str(path)!r} has mode {stat.S_IMODE(found.st_mode):04o}: others may read it",
            remedy=f"chmod 0400 {path}",
        )
    return _owned(path, key, found.st_uid, owner)


def _owned(path: Path, key: str, uid: int, owner: str | None) -> AgentError | None:
    try:
        wanted = os.geteuid() if owner is None else pwd.getpwnam(owner).pw_uid
    except KeyError:
        return Unavailable(
            f"there is no user {owner!r} on this node", remedy="name another user, or add this one"
        )
    # Another's file can be read by root, and its owner could change what root mounts with it.
    if uid == wanted:
        return None
    who = owner or pwd.getpwuid(wanted).pw_name
    return Unavailable(
        f"{key}: {str(path)!r} belongs to uid {uid}, not to {who!r}",
        remedy=f"chown {who} {path}",
    )
