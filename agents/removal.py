# SPDX-License-Identifier: Apache-2.0
"""Removes files and directories of ours for good: never through a mount, never through a link, and
of directories that others use as well only what is empty. Knows no purpose.
"""

from __future__ import annotations

import errno
import shutil
import stat
from pathlib import Path

from agents import mountinfo
from agents.errors import AgentError


def remove_whole(path: Path, proc: Path) -> bool:
    """A file, or a directory with all in it; False: there was none. Raises OSError, and AgentError
    while something is mounted there: a mount's files are not ours.
    """
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    if not stat.S_ISDIR(mode):
        path.unlink(missing_ok=True)
        return True
    place = path.parent.resolve() / path.name
    if mounted := mountinfo.below(mountinfo.read(proc), place):
        raise AgentError(
            f"{mounted[-1].mount_point!r} is still mounted",
            remedy=f"see what uses it (fuser -vm {mounted[-1].mount_point}), and unmount it",
        )
    # By descriptors: a link that is put in meanwhile leads nowhere.
    shutil.rmtree(path)
    return True


def remove_if_empty(path: Path) -> bool:
    """Whether it is gone. Raises OSError."""
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EBUSY, errno.ENOTDIR):
            raise
        return False
    return True
