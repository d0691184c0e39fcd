# SPDX-License-Identifier: Apache-2.0
"""Whole directories of small files that are never changed once they are there.

Files that are alike are one file with many names, because a page of memory is the least that each
one takes; and directories that are alike are one directory for all containers, because the CPUs of
a large machine are thousands of files. Knows no container.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path


def write(directory: Path, files: Mapping[str, bytes]) -> None:
    """Make a directory with these files, by their path below it. Raises OSError, and leaves nothing
    then: there may be no room for it."""
    shutil.rmtree(directory, ignore_errors=True)
    try:
        _write(directory, files)
    except OSError:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def _write(directory: Path, files: Mapping[str, bytes]) -> None:
    directory.mkdir(parents=True)
    alike: dict[bytes, Path] = {}
    made = {directory}
    for below, content in files.items():
        file = directory / below
        if file.parent not in made:
            file.parent.mkdir(parents=True, exist_ok=True)
            made.add(file.parent)
        if content in alike:
            file.hardlink_to(alike[content])
            continue
        file.write_bytes(content)
        file.chmod(0o444)
        alike[content] = file


def digest(files: Mapping[str, bytes]) -> str:
    """The same for directories that are alike, and for no others."""
    hashed = hashlib.sha256()
    for below, content in sorted(files.items()):
        hashed.update(b"%d %d %s%s" % (len(below), len(content), below.encode(), content))
    return hashed.hexdigest()[:32]
