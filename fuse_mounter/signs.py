# SPDX-License-Identifier: Apache-2.0
"""The last sign of every instance: what clients and the kernel tell of mounts without being asked.

Asks drivers, never a mounted file system. Decides nothing: what follows from a suspicion is said
in `look`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import trio

from agents.hostfs import HostFs
from fuse_mounter.drivers.base import MountBase, Sign
from fuse_mounter.drivers.registry import driver_of
from fuse_mounter.observed import Instance

#: Clients write their statistics about once a second; there is nothing to gain by looking sooner.
EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class _Read:
    sign: Sign | None
    at: float


class Signs:
    """By the name of the staging directory, which means the same mount for ever."""

    def __init__(self, staging: Callable[[str], Path], host: HostFs) -> None:
        self._staging, self._host = staging, host
        self._read: dict[str, _Read] = {}

    def look(self, instances: Collection[Instance], mounts: Collection[MountBase]) -> None:
        """Read what is due, and forget what is gone."""
        entries = {mount.name: mount for mount in mounts}
        now = trio.current_time()
        kept = {}
        for one in instances:
            entry = entries.get(one.name)
            if entry is None or one.shown is None:
                continue
            before = self._read.get(one.staging)
            if before is None or now - before.at >= EVERY_S:
                before = _Read(self._ask(entry, one.shown.device, one.staging), now)
            kept[one.staging] = before
        self._read = kept

    def last(self, staging: str) -> Sign | None:
        """What was told of this instance last; None: nothing."""
        read = self._read.get(staging)
        return read.sign if read else None

    def suspicion(self, staging: str) -> str | None:
        """Why this instance should be probed at once, if there is a reason."""
        sign = self.last(staging)
        return sign.suspicion if sign else None

    def _ask(self, mount: MountBase, device: tuple[int, int], staging: str) -> Sign | None:
        try:
            return driver_of(mount).sign(mount, device, self._staging(staging), self._host)
        except ValueError:
            return self.last(staging)  # half a file: the next look may read all of it
        except OSError:
            return None
