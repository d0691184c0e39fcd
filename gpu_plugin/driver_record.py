# SPDX-License-Identifier: Apache-2.0
"""Which limits this node's agents set in the driver: they outlive the agent, and whoever comes next
has to take away what is not wanted any more. Knows no limit's size, which the driver tells.

Blocks as files do; of any thread, one for each device.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from gpu_plugin.driver_wanted import Target


class LimitRecord:
    """A file for each target in `directory`. Raises OSError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self) -> frozenset[Target]:
        """All that were added and not removed. What cannot be understood was not written to its
        end, and so nothing was set.
        """
        if not self._directory.is_dir():
            return frozenset()
        found = (_parse(path.read_bytes()) for path in self._directory.iterdir())
        return frozenset(target for target in found if target is not None)

    def add(self, target: Target) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path(target).write_text(json.dumps([target.device, target.cgroup]))

    def remove(self, target: Target) -> None:
        self._path(target).unlink(missing_ok=True)

    def _path(self, target: Target) -> Path:
        name = hashlib.sha256(f"{target.device} {target.cgroup}".encode()).hexdigest()
        return self._directory / name[:32]


def _parse(text: bytes) -> Target | None:
    try:
        device, cgroup = json.loads(text)
    except (ValueError, TypeError):
        return None
    return Target(device, cgroup) if isinstance(device, str) and isinstance(cgroup, str) else None
