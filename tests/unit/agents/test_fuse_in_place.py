# SPDX-License-Identifier: Apache-2.0
"""Requests are waited for in place, and others have their turn."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from agents.fuse_in_place import Lock, ManyTasks, SingleTask


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


async def test_when_somebody_waits_for_something_else_nobody_lingers(
    pipe: tuple[int, int], nursery: trio.Nursery
) -> None:
    """Every request lets the others run first."""
    many, ran = ManyTasks(busy=lambda: True), trio.Event()

    async def other() -> None:
        ran.set()

    os.write(pipe[1], b"x")
    nursery.start_soon(other)
    for _ in range(2):  # who of those that can run is first is nobody's to say
        await many.lowlevel.wait_readable(pipe[0])
    assert ran.is_set()


async def test_a_free_lock_is_had_without_a_turn_of_the_loop(nursery: trio.Nursery) -> None:
    lock, order = Lock(), []

    async def other() -> None:
        async with lock:
            order.append("other")

    async with lock:
        nursery.start_soon(other)
        await trio.testing.wait_all_tasks_blocked()
    async with lock:
        order.append("first again")
    await trio.testing.wait_all_tasks_blocked()
    assert order == ["first again", "other"]


async def test_one_at_a_time_and_everybody_in_the_end(nursery: trio.Nursery) -> None:
    lock, inside, served = Lock(), 0, []

    async def worker(number: int) -> None:
        nonlocal inside
        for _ in range(20):
            async with lock:
                inside += 1
                assert inside == 1
                await trio.lowlevel.checkpoint()
                inside -= 1
            await trio.lowlevel.checkpoint()
        served.append(number)

    with trio.fail_after(5):
        async with trio.open_nursery() as workers:
            for number in range(5):
                workers.start_soon(worker, number)
    assert sorted(served) == [0, 1, 2, 3, 4]


async def test_who_is_cancelled_while_waiting_takes_nothing_away(nursery: trio.Nursery) -> None:
    lock = Lock()
    async with lock:
        with trio.move_on_after(0.01) as scope:
            async with lock:
                pass
        assert scope.cancelled_caught
    with trio.fail_after(5):
        async with lock:
            pass
