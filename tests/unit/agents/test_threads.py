# SPDX-License-Identifier: Apache-2.0
"""A slow outside call costs its caller the limit once, and nobody else anything."""

from __future__ import annotations

import threading
import time

import pytest
import trio

from agents.errors import Unavailable
from agents.threads import Worker


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
