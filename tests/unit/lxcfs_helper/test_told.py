# SPDX-License-Identifier: Apache-2.0
"""What is told, what is missing, and that either is said."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import trio

from agents.cgroup_events import CgroupChanges, CgroupEvents
from agents.errors import Unavailable
from agents.logs import get_logger
from lxcfs_helper import told as told_module
from lxcfs_helper.told import Told


@dataclass
class Runtime:
    """Tells so many events each time it is followed, and then ends as the script says: True stays,
    False tells nothing ever, an error is raised."""

    script: list[bool | Unavailable]
    followed: int = 0
    leave: threading.Event = field(default_factory=threading.Event)

    def follow(self, changed: Callable[[], None]) -> bool:
        ending = self.script[self.followed]
        self.followed += 1
        if ending is False:
            return False
        changed()
        if isinstance(ending, Unavailable):
            raise ending
        self.leave.wait(10)
        return True


async def test_a_runtime_that_comes_back_is_followed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(told_module, "_RETRY_S", 0.01)
    monkeypatch.setattr(told_module, "_SETTLED_S", 0.01)
    runtime = Runtime([Unavailable("away"), Unavailable("away"), True])
    told = Told(get_logger(), runtime=runtime)
    heard = trio.Event()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(told.follow_runtime, heard.set)
            await heard.wait()
            while runtime.followed < 3 or not told.by_runtime:
                await trio.sleep(0.01)
            assert told.features()["runtime_events"]
            runtime.leave.set()
            nursery.cancel_scope.cancel()


async def test_a_runtime_that_tells_nothing_is_left_alone() -> None:
    told = Told(get_logger(), runtime=Runtime([False]))
    with trio.fail_after(5):
        await told.follow_runtime(lambda: None)
    assert told.features() == {
        "cgroup_events": False,
        "reader_events": False,
        "runtime_events": False,
    }


class FewWatches(CgroupEvents):
    """Can watch no more, after a while."""

    def __init__(self) -> None:
        self.left = 1

    def start(self) -> None: ...

    def close(self) -> None: ...

    async def changes(self) -> CgroupChanges:
        self.left -= 1
        if self.left < 0:
            raise Unavailable("cannot watch '/x'", remedy="raise fs.inotify.max_user_watches")
        return CgroupChanges(limited=frozenset({"/a"}))


@pytest.mark.loud
async def test_cgroups_that_cannot_be_watched_any_more_are_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = Told(get_logger(), cgroups=FewWatches())
    heard: list[CgroupChanges] = []
    with trio.fail_after(5):
        await told.follow_cgroups(heard.append)
    assert heard == [CgroupChanges(lost=True), CgroupChanges(limited=frozenset({"/a"}))]
    assert not told.by_cgroups
    (record,) = caplog.records
    assert "max_user_watches" in record.error  # type: ignore[attr-defined]  # a key of the event
