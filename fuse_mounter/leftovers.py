# SPDX-License-Identifier: Apache-2.0
"""Takes away the directories that clients had for themselves (caches, journals, copies of users'
tokens), once those clients have ended, and the beginning of logs that become too large. Knows of a
directory only what its name says: which instance of which run directory it belongs to.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any  # each driver takes its own kind of entry

import trio

from fuse_mounter.drivers import client_log
from fuse_mounter.drivers.base import Driver, private_suffix
from fuse_mounter.drivers.registry import DRIVERS
from fuse_mounter.places import Places

#: How often the size of logs is looked at.
_TRIM_S = 30.0


class Leftovers:
    """Looks only when an instance is gone, and once at the beginning."""

    def __init__(self, places: Places) -> None:
        self._staging, self._logs = places.staging, places.log("any").parent
        self._trimmed_at = -math.inf
        self._before: frozenset[str] | None = None

    def clear(
        self, alive: Collection[str], configured: Collection[str], nursery: trio.Nursery
    ) -> None:
        """`alive`: names of staging directories whose clients may still run. `configured`: names of
        mounts. Takes its time, in the background.
        """
        if trio.current_time() - self._trimmed_at > _TRIM_S:
            self._trimmed_at = trio.current_time()
            client_log.trim(self._logs)
        # One that is between two clients may need what the last one has left.
        now = frozenset([*alive, *(f"{name}@0.0" for name in configured)])
        if self._before is None or self._before - now:
            for driver in DRIVERS.values():
                for place in self._left(driver, now):
                    nursery.start_soon(self._remove, driver, place)
        self._before = now

    def _left(self, driver: Driver[Any], alive: Collection[str]) -> Iterable[Path]:
        """Directories of ours that belong to nothing any more."""
        kept = {driver.cache_name(self._staging / name) for name in alive}
        found = driver.caches.glob(f"*{private_suffix(self._staging)}") if driver.caches else ()
        return [place for place in found if place.name not in kept and not place.is_symlink()]

    async def _remove(self, driver: Driver[Any], place: Path) -> None:
        # To its end: a drain leaves nothing, and an agent that is to stop has a limit of its own.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_remove, driver, place)


def _remove(driver: Driver[Any], place: Path) -> None:
    try:
        precious = driver.precious(place)
    except (OSError, ValueError):
        return  # it changes at this moment, or cannot be read: nobody knows
    if not precious:
        shutil.rmtree(place, ignore_errors=True)
