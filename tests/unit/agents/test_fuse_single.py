# SPDX-License-Identifier: Apache-2.0
"""One task for all requests: waits in place, and lets others have their turn."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import trio

from agents.fuse_single import SingleTask


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    yield ends
    for end in ends:
        os.close(end)


async def test_what_is_there_is_not_waited_for(pipe: tuple[int, int]) -> None:
    replies: list[str] = []
    single = SingleTask(lambda: replies.append("sent"))
    os.write(pipe[1], b"x")
    with trio.fail_after(5):
        await single.lowlevel.wait_readable(pipe[0])
    assert replies == ["sent"]


async def test_what_comes_later_is_waited_for_by_the_event_loop(
    pipe: tuple[int, int], nursery: trio.Nursery
) -> None:
    single = SingleTask(lambda: None)

    async def write_later() -> None:
        await trio.sleep(0.05)
        os.write(pipe[1], b"x")

    nursery.start_soon(write_later)
    with trio.fail_after(5):
        await single.lowlevel.wait_readable(pipe[0])
    assert os.read(pipe[0], 1) == b"x"


async def test_requests_without_end_do_not_keep_others_from_running(
    pipe: tuple[int, int], nursery: trio.Nursery
) -> None:
    single, ran = SingleTask(lambda: None), trio.Event()

    async def other() -> None:
        ran.set()

    os.write(pipe[1], b"x")
    nursery.start_soon(other)
    for _ in range(1000):
        await single.lowlevel.wait_readable(pipe[0])
        if ran.is_set():
            return
    pytest.fail("nobody else was let run")


async def test_the_lock_is_nobodys() -> None:
    single = SingleTask(lambda: None)
    async with single.Lock(), single.Lock():
        pass
