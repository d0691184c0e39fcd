# SPDX-License-Identifier: Apache-2.0
"""Clients that were replaced. They serve the files that are still open and end by themselves with
the last of them, unless they cannot: one that is stopped, whose callers wait for ever, or whose
connection is gone while it goes on. Says which; ends none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import trio

from agents.hostfs import HostFs
from fuse_mounter import diagnosis
from fuse_mounter.observed import Instance


class Replaced:
    """Remembers the connection of a client from when it was mounted. `connection` is the directory
    of one in fusectl.
    """

    def __init__(self, host: HostFs, connection: Callable[[tuple[int, int]], Path]) -> None:
        self._host, self._connection = host, connection
        self._devices: dict[str, tuple[int, int]] = {}
        self._waiting_since: dict[str, float] = {}

    def remember(self, instances: Collection[Instance]) -> None:
        """What is there now; what is gone is forgotten."""
        shown = {one.staging: one.shown.device for one in instances if one.shown and one.client}
        names = {one.staging for one in instances}
        self._devices = {k: v for k, v in {**self._devices, **shown}.items() if k in names}
        self._waiting_since = {k: v for k, v in self._waiting_since.items() if k in names}

    def useless(self, one: Instance, hang_after_s: float) -> bool:
        """Whether it will never end by itself, or serves nobody."""
        if one.present or one.client is None or not one.running:
            return False
        if diagnosis.stopped(self._host, one.client.key.pid):
            return True
        device = self._devices.get(one.staging)
        if device is None:
            return False  # an agent before this one knew; while it answers it may stay
        try:
            waiting = int((self._connection(device) / "waiting").read_text())
        except FileNotFoundError:
            return True
        except (OSError, ValueError):
            return False
        return self._hangs(one.staging, waiting, hang_after_s)

    def _hangs(self, staging: str, waiting: int, hang_after_s: float) -> bool:
        now = trio.current_time()
        if not waiting:
            self._waiting_since.pop(staging, None)
            return False
        return now - self._waiting_since.setdefault(staging, now) > hang_after_s
