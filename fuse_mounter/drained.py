# SPDX-License-Identifier: Apache-2.0
"""Mounts that shall be away because an operator asked for it, for as long as they are configured as
they were then. The one thing that is kept in a file: no kernel knows what somebody wishes, and a
mount that is drained for a repair must not come back with the next agent. Where the run directory
is emptied (a reboot), or cannot be written, the wish ends with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from fuse_mounter.drivers.base import MountBase


class Drained:
    """By name; as an agent before this one left it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._configured = _read(file)

    def holds(self, mount: MountBase) -> bool:
        """Whether it shall be away. One that was configured anew is forgotten: that is the later
        wish.
        """
        known = self._configured.get(mount.name)
        if known is not None and known != _entry(mount):
            self.forget(mount.name)
            return False
        return known is not None

    def add(self, mount: MountBase) -> None:
        self._configured[mount.name] = _entry(mount)
        self._write()

    def forget(self, name: str) -> None:
        if self._configured.pop(name, None) is not None:
            self._write()

    def keep_only(self, names: Collection[str]) -> None:
        """Forget mounts that are not configured any more."""
        for name in self._configured.keys() - set(names):
            self.forget(name)

    def _write(self) -> None:
        """Whole or not at all."""
        aside = self._file.with_suffix(".new")
        with suppress(OSError):  # a full disk: then only this agent knows
            aside.write_text(json.dumps(self._configured))
            aside.replace(self._file)


def _read(file: Path) -> dict[str, str]:
    """What cannot be read is not known."""
    try:
        return {str(name): str(entry) for name, entry in json.loads(file.read_text()).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _entry(mount: MountBase) -> str:
    """Of all that is configured; a file of credentials that was replaced is no wish."""
    return hashlib.sha256(mount.model_dump_json().encode()).hexdigest()[:16]
