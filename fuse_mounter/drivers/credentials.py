# SPDX-License-Identifier: Apache-2.0
"""The files of credentials that a mount uses, and whether they are still the same.

Most clients read theirs once. So a file that was replaced is a changed mount: another client is
started, and takes the place of the old one. Looks at the files, never into them: nothing that is
made of a secret is in a name, a log or a metric.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from fuse_mounter.drivers.base import MountBase


def files(mount: MountBase) -> tuple[Path, ...]:
    """What `credentials` names."""
    section = getattr(mount, "credentials", None)
    return tuple(value for _, value in section or () if isinstance(value, Path))


def digest_now(mount: MountBase) -> str:
    """The digest of the entry, and of its files as they are at this moment."""
    named = files(mount)
    if not named:
        return mount.digest
    text = "\n".join([mount.digest, *_seen(named)])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _seen(named: tuple[Path, ...]) -> Iterator[str]:
    for path in named:
        try:
            found = path.stat()
        except OSError:
            yield "missing"
        else:
            yield f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"
