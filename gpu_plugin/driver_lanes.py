# SPDX-License-Identifier: Apache-2.0
"""Questions to the driver, each in a worker thread and within a limit: one lane for the driver as a
whole, and one for every GPU, so that a GPU that hangs costs itself alone.

Knows no question and no answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from agents.errors import Unavailable
from agents.threads import Worker
from gpu_plugin.metrics import Counters

T = TypeVar("T")


class DriverLanes:
    """No answer within `limit_s` (seconds) raises Unavailable, as do the driver's own errors."""

    def __init__(self, limit_s: float, counters: Counters) -> None:
        self._limit_s, self._counters = limit_s, counters
        self._driver = Worker("the GPU driver")
        self._gpus: dict[int, Worker] = {}

    async def ask(self, question: Callable[[], T]) -> T:
        """About the machine."""
        return await self._in_time(self._driver, question)

    async def ask_gpu(self, index: int, question: Callable[[], T]) -> T:
        """About one GPU and what is on it."""
        lane = self._gpus.setdefault(index, Worker(f"the GPU driver (about GPU {index})"))
        return await self._in_time(lane, question)

    def reason(self, error: Unavailable) -> str:
        """The same text for as long as the reason is the same: without for how long it hangs."""
        if hangs(error):
            return f"the driver has not answered for it within {self._limit_s:g} s"
        return str(error)

    async def _in_time(self, lane: Worker, question: Callable[[], T]) -> T:
        try:
            return await lane.call(question, timeout_s=self._limit_s)
        except Unavailable as error:
            if hangs(error):
                self._counters.nvml_errors.labels("timeout").inc()
            raise


def hangs(error: Unavailable) -> bool:
    """Whether a lane said so, whose call does not come back; the driver's own errors are more
    special.
    """
    return type(error) is Unavailable
