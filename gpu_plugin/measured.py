# SPDX-License-Identifier: Apache-2.0
"""`Nvml` that counts how long each question took and which ones failed. Answers nothing itself.

What is no failure is not counted: a device that cannot do something, or that was removed, and a
node without a driver, which need not have a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from agents.errors import Unavailable
from gpu_plugin.devices import (
    Gpu,
    GpuProcess,
    LostGpu,
    Machine,
    Memory,
    MemoryLimits,
    Outline,
    Utilisation,
    XidEvent,
)
from gpu_plugin.metrics import Counters
from gpu_plugin.nvml import DeviceIsGone, NoDriver, NoSuchCgroup, Nvml

T = TypeVar("T")


class MeasuredNvml:
    """Around any implementation, from any thread."""

    def __init__(self, nvml: Nvml, counters: Counters) -> None:
        self._nvml, self._counters = nvml, counters

    def outline(self) -> Outline:
        return self._timed("outline", self._nvml.outline)

    def gpu(self, index: int) -> Gpu | LostGpu:
        found = self._timed("gpu", lambda: self._nvml.gpu(index))
        if isinstance(found, LostGpu):
            self._counters.nvml_errors.labels("gpu").inc()
        return found

    def machine(self) -> Machine:
        return self._timed("machine", self._nvml.machine)

    def reopen(self) -> None:
        self._nvml.reopen()

    def memory(self, uuid: str) -> Memory:
        return self._timed("memory", lambda: self._nvml.memory(uuid))

    def processes(self, uuid: str) -> tuple[GpuProcess, ...]:
        return self._timed("processes", lambda: self._nvml.processes(uuid))

    def utilisation(self, uuid: str) -> Utilisation:
        return self._timed("utilisation", lambda: self._nvml.utilisation(uuid))

    def process_utilisation(self, uuid: str) -> Mapping[int, float]:
        return self._timed("process_utilisation", lambda: self._nvml.process_utilisation(uuid))

    def wait_event(self, timeout_s: float) -> XidEvent | None:
        with self._counting("events"):
            return self._nvml.wait_event(timeout_s)

    def unmonitored(self) -> Mapping[str, str]:
        return self._nvml.unmonitored()

    def memory_limits(self, uuid: str, cgroup: str) -> MemoryLimits:
        return self._timed("limits", lambda: self._nvml.memory_limits(uuid, cgroup))

    def set_memory_limits(self, uuid: str, cgroup: str, limits: MemoryLimits) -> None:
        self._timed("set_limits", lambda: self._nvml.set_memory_limits(uuid, cgroup, limits))

    def close(self) -> None:
        self._nvml.close()

    def _timed(self, call: str, question: Callable[[], T]) -> T:
        self._counters.nvml_errors.labels(call)  # is there, at 0, before the first error
        started = time.perf_counter()
        try:
            with self._counting(call):
                return question()
        finally:
            self._counters.nvml_seconds.labels(call).observe(time.perf_counter() - started)

    @contextmanager
    def _counting(self, call: str) -> Iterator[None]:
        try:
            yield
        except (DeviceIsGone, NoDriver, NoSuchCgroup):
            raise
        except Unavailable:
            self._counters.nvml_errors.labels(call).inc()
            raise
