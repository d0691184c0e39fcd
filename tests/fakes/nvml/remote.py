# SPDX-License-Identifier: Apache-2.0
"""Our driver in a process of its own, in which pynvml loads the simulated library by its name.

The dynamic loader reads LD_LIBRARY_PATH when a process starts, and pynvml keeps what it loaded for
the life of the process: so every variant of the library has its own. Each thread of the test has
a thread of its own there, so concurrent calls are concurrent.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.managers import BaseManager, BaseProxy
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from agents.hostfs import HostFs
from gpu_plugin import driver
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
from gpu_plugin.driver import PynvmlDriver
from gpu_plugin.nvml import Nvml

T = TypeVar("T")

#: How long a test waits for the end of a driver that waits for events.
_EVENT_SLICE_S = 0.05


class DriverProxy(BaseProxy):
    """`Nvml` here, `PynvmlDriver` there. Errors come over as they are."""

    _exposed_ = (
        "outline",
        "gpu",
        "machine",
        "reopen",
        "unmonitored",
        "memory",
        "processes",
        "utilisation",
        "process_utilisation",
        "wait_event",
        "memory_limits",
        "set_memory_limits",
        "close",
    )

    def outline(self) -> Outline:
        return cast("Outline", self._callmethod("outline"))

    def gpu(self, index: int) -> Gpu | LostGpu:
        return cast("Gpu | LostGpu", self._callmethod("gpu", (index,)))

    def reopen(self) -> None:
        self._callmethod("reopen")

    def unmonitored(self) -> Mapping[str, str]:
        return cast("Mapping[str, str]", self._callmethod("unmonitored"))

    def machine(self) -> Machine:
        return cast("Machine", self._callmethod("machine"))

    def memory(self, uuid: str) -> Memory:
        return cast("Memory", self._callmethod("memory", (uuid,)))

    def processes(self, uuid: str) -> tuple[GpuProcess, ...]:
        return cast("tuple[GpuProcess, ...]", self._callmethod("processes", (uuid,)))

    def utilisation(self, uuid: str) -> Utilisation:
        return cast("Utilisation", self._callmethod("utilisation", (uuid,)))

    def process_utilisation(self, uuid: str) -> Mapping[int, float]:
        return cast("Mapping[int, float]", self._callmethod("process_utilisation", (uuid,)))

    def wait_event(self, timeout_s: float) -> XidEvent | None:
        return cast("XidEvent | None", self._callmethod("wait_event", (timeout_s,)))

    def memory_limits(self, uuid: str, cgroup: str) -> MemoryLimits:
        return cast("MemoryLimits", self._callmethod("memory_limits", (uuid, cgroup)))

    def set_memory_limits(self, uuid: str, cgroup: str, limits: MemoryLimits) -> None:
        self._callmethod("set_memory_limits", (uuid, cgroup, limits))

    def close(self) -> None:
        self._callmethod("close")


_opened: list[PynvmlDriver] = []


def _open(machine: Path | None, state: Path, host: HostFs) -> PynvmlDriver:
    """Runs there. The C library reads the environment when NVML is initialised.

    NVML is one for the process: what an earlier test left open would still be the earlier machine.
    """
    while _opened:
        _opened.pop().close()
    driver._EVENT_SLICE_S = _EVENT_SLICE_S
    os.environ["NODESHARE_NVML_MACHINE"] = str(machine or "/nonexistent")
    os.environ["NODESHARE_NVML_STATE"] = str(state)
    _opened.append(PynvmlDriver(host))
    return _opened[-1]


def _apply(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments)


class _Manager(BaseManager):
    pass


_Manager.register("open", _open, DriverProxy)
_Manager.register("apply", _apply)


class DriverProcess:
    """A process with one variant of the library."""

    def __init__(self, manager: _Manager) -> None:
        self._manager = manager

    def open(self, machine: Path | None, state: Path, host: HostFs) -> Nvml:
        """A driver; nothing is opened before its first call. Ends the one before."""
        return cast("Nvml", self._manager.open(machine, state, host))  # type: ignore[attr-defined] # registered above

    def apply(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a module-level function there, for what cannot be asked through `Nvml`."""
        proxy = self._manager.apply(function, arguments)  # type: ignore[attr-defined] # registered above
        return cast("T", proxy._getvalue())


@contextmanager
def driver_process(library: Path | None) -> Iterator[DriverProcess]:
    """Start one with the library of this folder (None: with none at all), and end it."""
    manager = _Manager(ctx=multiprocessing.get_context("spawn"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_LIBRARY_PATH", str(library or ""))
        manager.start()
    try:
        yield DriverProcess(manager)
    finally:
        manager.shutdown()
