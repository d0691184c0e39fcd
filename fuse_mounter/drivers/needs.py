# SPDX-License-Identifier: Apache-2.0
"""What drivers look for before they start anything: programs, the FUSE device, files of
credentials. Every answer is None (it is there), or an error with the remedy: `a or b` is the first
problem of the two.

Looks at this node's own disk and at kernel file systems only, so nothing here can hang on a server.
"""

from __future__ import annotations

import os
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


def helper(*paths: Path, package: str) -> AgentError | None:
    """One of these programs, at exactly this place: the client looks nowhere else."""
    if any(os.access(path, os.X_OK) for path in paths):
        return None
    tried = " or ".join(repr(str(path)) for path in paths)
    return Unavailable(f"{tried} cannot be executed", remedy=f"install {package}")


def readable(path: Path, key: str) -> AgentError | None:
    """A file that the client reads."""
    if os.access(path, os.R_OK) and path.is_file():
        return None
    return Unavailable(
        f"{key}: {str(path)!r} is not a file that can be read",
        remedy="put the file there, or name the place where it is",
    )


def secret(path: Path, key: str) -> AgentError | None:
    """A file of credentials: there, regular, and for its owner alone (as its client demands)."""
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
    return None
