# SPDX-License-Identifier: Apache-2.0
"""Asks all GPUs for their readings in rounds, each GPU by itself: one that is slow misses rounds,
and delays no other by more than `patience`.

Judges no answer; `driver_lanes` knows how a question is asked, and `observation` what.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import trio

from agents.errors import AgentError, Unavailable
from gpu_plugin import observation
from gpu_plugin.driver_lanes import DriverLanes
from gpu_plugin.inventory import Device
from gpu_plugin.nvml import Nvml
from gpu_plugin.readings import Reading, Readings

#: The devices of one GPU that were asked, why some of them did not answer, or why none did.
Answered = Callable[[Sequence[Device], Mapping[str, AgentError], Unavailable | None], None]


class Probing:
    """`readings` is what each device told last; of one that did not answer there is nothing."""

    def __init__(self, nvml: Nvml, lanes: DriverLanes, answered: Answered) -> None:
        self._nvml, self._lanes, self._answered = nvml, lanes, answered
        self._asked: set[int] = set()
        self._all_back = trio.Event()
        self._new: dict[str, Reading] = {}
        self.readings: dict[str, Reading] = {}

    async def round(
        self, devices: Sequence[Device], patience_s: float, nursery: trio.Nursery
    ) -> Readings:
        """What came since the last round, as soon as all GPUs that are asked have answered, or
        after `patience_s`. What comes later is for the next one.
        """
        by_gpu: dict[int, list[Device]] = {}
        for device in devices:
            by_gpu.setdefault(device.gpu_index, []).append(device)
        for index in by_gpu.keys() - self._asked:
            self._asked.add(index)
            nursery.start_soon(self._ask, index, by_gpu[index])
        with trio.move_on_after(patience_s):
            while self._asked:
                self._all_back = trio.Event()
                await self._all_back.wait()
        there = {device.uuid for device in devices}
        self.readings = {uuid: one for uuid, one in self.readings.items() if uuid in there}
        found, self._new = self._new, {}
        return {uuid: one for uuid, one in found.items() if uuid in there}

    async def _ask(self, index: int, devices: Sequence[Device]) -> None:
        failed: dict[str, AgentError] = {}
        found: dict[str, Reading] = {}
        late: Unavailable | None = None
        question = partial(observation.readings, self._nvml, devices, failed.setdefault)
        try:
            found = await self._lanes.ask_gpu(index, question)
        except Unavailable as error:
            late = error
        for device in devices:
            self.readings.pop(device.uuid, None)
        self.readings |= found
        self._new |= found
        self._asked.discard(index)
        self._all_back.set()
        self._answered(devices, failed, late)
