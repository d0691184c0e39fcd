# SPDX-License-Identifier: Apache-2.0
"""Whoever can no more be told of is taken as one who reads."""

from __future__ import annotations

from pathlib import Path

import trio

from agents.errors import Unavailable
from agents.inotify import Event, Happening, Inotify
from lxcfs_helper.demand import WatchedDemand


class FewWatches(Inotify):
    """Gives one watch, which tells what our own work makes it tell, and no other."""

    def __init__(self) -> None:
        self.given = False

    def watch(self, path: Path, what: Happening) -> int:
        if self.given:
            raise Unavailable("cannot watch", remedy="raise fs.inotify.max_user_watches")
        self.given = True
        return 1

    async def wait(self) -> None:
        await trio.lowlevel.checkpoint()

    def read(self) -> list[Event]:
        return [Event(1, Happening.OPENED, ".stat.new"), Event(1, Happening.ENDED, "")]


async def test_a_watch_that_cannot_be_renewed_is_told_as_a_read() -> None:
    demand = WatchedDemand(FewWatches)
    demand.expect("one", Path("/views/one"))
    with trio.fail_after(5):
        assert await demand.readers() == {"one"}
