# SPDX-License-Identifier: Apache-2.0
"""A slow outside call costs its caller the limit once, and nobody else anything."""

from __future__ import annotations

import threading
import time

import pytest
import trio

from agents.errors import Unavailable
from agents.threads import ThreadLane, Worker


async def test_answer_comes_back() -> None:
    assert await Worker("the driver").call(lambda: 7, timeout_s=5) == 7


async def test_exception_comes_back() -> None:
    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await Worker("the driver").call(fail, timeout_s=5)


async def test_stuck_call_is_left_behind_and_not_repeated() -> None:
    release, calls = threading.Event(), []

    def hang() -> None:
        calls.append(1)
        release.wait(10)

    worker = Worker("the driver")
    with pytest.raises(Unavailable, match=r"the driver did not answer within 0\.05 s"):
        await worker.call(hang, timeout_s=0.05)
    started = time.monotonic()
    with pytest.raises(Unavailable, match="has not answered for"):
        await worker.call(hang, timeout_s=5)
    assert time.monotonic() - started < 1, "a second call must not wait for the first"
    assert calls == [1]
    release.set()
    with trio.fail_after(5):
        while True:
            try:
                assert await worker.call(lambda: 3, timeout_s=1) == 3
                break
            except Unavailable:
                await trio.sleep(0.01)
    assert worker.stuck_s == 0


def test_a_thread_gets_its_answer_or_its_exception() -> None:
    lane = ThreadLane("the disk")
    assert lane.call(lambda: 7, timeout_s=5) == 7

    def late() -> None:
        raise TimeoutError("of the function itself")

    with pytest.raises(TimeoutError, match="of the function itself"):
        lane.call(late, timeout_s=5)


def test_a_thread_leaves_a_stuck_call_behind_and_what_it_made_is_undone() -> None:
    release, undone = threading.Event(), threading.Event()
    results: list[str] = []

    def make() -> str:
        release.wait(10)
        return "made"

    def undo(result: str) -> None:
        results.append(result)
        undone.set()

    lane = ThreadLane("the disk")
    with pytest.raises(Unavailable, match=r"the disk did not answer within 0\.05 s"):
        lane.call(make, timeout_s=0.05, undo=undo)
    with pytest.raises(Unavailable, match="has not answered for"):
        lane.call(lambda: 3, timeout_s=5)
    release.set()
    assert undone.wait(5)
    assert results == ["made"]
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            assert lane.call(lambda: 3, timeout_s=5) == 3
            break
        except Unavailable:
            time.sleep(0.01)
    else:
        pytest.fail("the lane stayed closed")


def test_threads_of_a_lane_are_used_again_and_end_when_nothing_comes() -> None:
    lane = ThreadLane("the disk", idle_s=0.05)
    first = lane.call(threading.current_thread, timeout_s=5)
    assert lane.call(threading.current_thread, timeout_s=5) is first
    first.join(5)
    assert not first.is_alive()
    assert lane.call(threading.current_thread, timeout_s=5) is not first


def test_callers_of_a_lane_do_not_wait_for_each_other() -> None:
    lane, together = ThreadLane("the disk"), threading.Barrier(4)
    callers = [
        threading.Thread(target=lane.call, args=[lambda: together.wait(5)], kwargs={"timeout_s": 5})
        for _ in range(3)
    ]
    for caller in callers:
        caller.start()
    together.wait(5)
    for caller in callers:
        caller.join(5)


def test_many_callers_of_a_lane_whose_threads_come_and_go() -> None:
    lane, answers = ThreadLane("the disk", idle_s=0.0005), []

    def ask(number: int) -> None:
        for step in range(200):
            answers.append(lane.call(lambda: number * 1000 + step, timeout_s=10))  # noqa: B023 -- runs now

    callers = [threading.Thread(target=ask, args=[number]) for number in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(30)
    assert sorted(answers) == [number * 1000 + step for number in range(4) for step in range(200)]
