# SPDX-License-Identifier: Apache-2.0
"""The thread that hears of events: what becomes of those, and of a driver that hangs or fails."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from typing import cast

import pytest
import trio

from gpu_plugin.devices import XidEvent
from gpu_plugin.nvml import DriverIsGone, NotSupported, Nvml
from gpu_plugin.xid_listener import XidListener

GPUS = ("GPU-1", "GPU-2")


class Script:
    """Answers each wait with what a test put there: an event, None, or an error; `hang` waits."""

    def __init__(self) -> None:
        self.answers: queue.Queue[XidEvent | Exception | None] = queue.Queue()
        self.waits = 0
        self.hang = threading.Event()
        self.hang.set()

    def wait_event(self, timeout_s: float) -> XidEvent | None:
        self.waits += 1
        self.hang.wait(20)
        try:
            answer = self.answers.get(timeout=min(timeout_s, 0.02) or 0.001)
        except queue.Empty:
            return None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def unmonitored(self) -> Mapping[str, str]:
        return {"GPU-2": "not supported"}


def listener(script: Script, **options: float) -> XidListener:
    return XidListener(cast("Nvml", script), **options)


async def until(condition: object) -> None:
    with trio.fail_after(10):
        while not condition():  # type: ignore[operator] # a condition is called
            await trio.sleep(0.005)


async def test_events_arrive_in_order_in_the_event_loop() -> None:
    script, heard = Script(), list[XidEvent]()
    listening = listener(script)
    assert listening.unmonitored(GPUS) == dict.fromkeys(GPUS, "nobody listens yet")
    sent = [XidEvent("GPU-1", code) for code in range(50)]
    for event in sent:
        script.answers.put(event)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listening.run, heard.append)
        await until(lambda: len(heard) == 50)
        assert heard == sent
        assert listening.unmonitored(GPUS) == {"GPU-2": "not supported"}
        nursery.cancel_scope.cancel()
    before = script.waits
    await trio.sleep(0.1)
    assert script.waits <= before + 1, "the thread ends"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NotSupported("no events here"), "no events here"),
        (DriverIsGone("unloaded"), "the driver does not answer: unloaded"),
    ],
)
async def test_a_driver_that_cannot_be_listened_to_is_tried_again(
    error: Exception, reason: str
) -> None:
    script, heard = Script(), list[XidEvent]()
    listening = listener(script, retry_s=0.05)
    script.answers.put(error)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listening.run, heard.append)
        await until(lambda: listening.unmonitored(GPUS) == dict.fromkeys(GPUS, reason))
        script.answers.put(XidEvent("GPU-1", 79))
        await until(lambda: heard)
        assert "GPU-1" not in listening.unmonitored(GPUS)
        nursery.cancel_scope.cancel()


async def test_a_wait_that_hangs_is_told_and_keeps_nobody() -> None:
    script = Script()
    listening = listener(script, hang_s=-0.9)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listening.run, lambda _: None)
        await until(lambda: "GPU-1" not in listening.unmonitored(GPUS))
        script.hang.clear()
        await until(lambda: "does not return" in listening.unmonitored(GPUS).get("GPU-1", ""))
        with trio.fail_after(5):
            nursery.cancel_scope.cancel()
            await trio.lowlevel.checkpoint_if_cancelled()
    script.hang.set()


@pytest.mark.loud
async def test_a_bug_in_the_thread_ends_the_agent() -> None:
    script = Script()
    script.answers.put(ZeroDivisionError("a bug"))
    with pytest.raises(RuntimeError, match="broke"):
        await listener(script).run(lambda _: None)
