# SPDX-License-Identifier: Apache-2.0
"""Keytabs (SSS keys of XRootD and EOS), kept readable for those alone who need them. XRootD refuses
a key file with any bit for others; eosxd without the default one silently does without sss *and*
oauth2.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from fuse_mounter.credentials.config import Keytab

_MODE = 0o400


def keep(keytab: Keytab) -> str | None:
    """Set owner and mode where they are not as they shall be. Returns what is wrong, and what to
    do about it; None: nothing. Never follows a link at the end of the path: what is changed is what
    was looked at.
    """
    path = keytab.path
    if keytab.source is not None and (problem := _copy(keytab.source, keytab)) is not None:
        return problem
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        return f"keytab {str(path)!r} is missing; put it there: without it eosxd knows nobody"
    except OSError as error:
        return (
            f"keytab {str(path)!r} cannot be kept: {error.strerror}; it must be a file, and no "
            "link (a Secret volume holds links: copy it)"
        )
    try:
        return _keep(descriptor, keytab)
    except OSError as error:
        return f"keytab {str(path)!r} cannot be kept: {error.strerror}"
    finally:
        os.close(descriptor)


def _copy(source: Path, keytab: Keytab) -> str | None:
    """Whole, and with its owner and mode before its content; nothing when it is the same."""
    path = keytab.path
    try:
        key = source.read_bytes()
        if not key:
            return f"keytab {str(source)!r} is empty; put the key there"
        if path.is_file() and not path.is_symlink() and path.read_bytes() == key:
            return None
        aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(aside, flags, 0), "wb") as file:
                os.fchown(file.fileno(), keytab.owner, keytab.group)
                os.fchmod(file.fileno(), _MODE)
                file.write(key)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
    except OSError as error:
        return (
            f"keytab {str(path)!r} cannot be copied from {str(source)!r}: {error.strerror}; look "
            "whether the Secret is mounted, and the directory there"
        )
    return None


def _keep(descriptor: int, keytab: Keytab) -> str | None:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        return f"keytab {str(keytab.path)!r} is no file; put the key there"
    if status.st_nlink != 1:
        return f"keytab {str(keytab.path)!r} has {status.st_nlink} names; remove the others"
    if status.st_size == 0:
        return f"keytab {str(keytab.path)!r} is empty; put the key there"
    # Before the owner: else the new one could read it with the old mode, or open it for others.
    if stat.S_IMODE(status.st_mode) != _MODE:
        os.fchmod(descriptor, _MODE)
    if (status.st_uid, status.st_gid) != (keytab.owner, keytab.group):
        os.fchown(descriptor, keytab.owner, keytab.group)
        os.fchmod(descriptor, _MODE)
    return None
