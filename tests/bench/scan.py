# SPDX-License-Identifier: Apache-2.0
"""Asking the driver who uses which GPU: 8 GPUs with 25 processes each, and with 100.

The agent's own driver (pynvml) over the simulated C library, in a process of its own because the
library is found by the loader's path. Time inside the library is measured around each of its
functions and reported beside our own: a real one is slower or faster, ours stays what it is.

Run as a program it is that process: machine description, state file, number of scans.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agents.hostfs import HostFs
from gpu_plugin import observation
from gpu_plugin.driver import PynvmlDriver
from gpu_plugin.inventory import devices_of
from gpu_plugin.simulated.description import load_machine
from tests.bench.measure import Context, Figure, Row, at_most, median
from tests.bench.workplace import Workplace, needs, python, workplace
from tests.fakes.nvml.machines import lay_out
from tests.fakes.nvml.shared_object import build

_MACHINE = "h100x8"
_FEW, _MANY = 25, 100
_FIRST_PID = 1000


def measure(context: Context) -> Sequence[Row]:
    """Rows of milliseconds for one scan."""
    needs("gcc", "apt-get install gcc libc6-dev")
    with workplace(context) as place:
        library = build(place.directory / "library")
        few, inside = _scans(place, library, _FEW)
        many, inside_many = _scans(place, library, _MANY)
    name, scale = "inside the simulated NVML", _MANY / _FEW
    return [
        Row(f"scan of 8 GPUs x {_FEW} processes, own work", few, name, inside, at_most(10, "ms")),
        Row(f"scan of 8 GPUs x {_MANY} processes, own work", many, name, inside_many),
        Row(
            f"the same, {scale:g} times the processes",
            many,
            f"x {_FEW} processes",
            few,
            note=f"linear is {scale:g}",
        ),
    ]


def _scans(place: Workplace, library: Path, processes: int) -> tuple[Figure, Figure]:
    """Own work and time inside the library, each the median of all scans."""
    laid = place.directory / f"machine{processes}"
    laid.mkdir()
    bench = lay_out(load_machine(_MACHINE), laid)
    for number, gpu in enumerate(bench.machine.gpus):
        for each in range(processes):
            pid = bench.start(_FIRST_PID + number * processes + each)
            bench.state.hold(gpu.uuid, pid, 1 << 30)
    argv = [
        *("env", f"LD_LIBRARY_PATH={library}"),
        f"NODESHARE_NVML_MACHINE={bench.description}",
        f"NODESHARE_NVML_STATE={bench.state_path}",
        *(python(), "-m", "tests.bench.scan"),
        *(str(processes), str(place.context.pick(200, 10))),
    ]
    told = json.loads(place.run(argv))
    return median(told["own_ms"], "ms"), median(told["inside_ms"], "ms")


class _Clock:
    """Adds up the time that functions of the C library take."""

    def __init__(self) -> None:
        self.spent_s = 0.0
        self._wrapped: dict[str, Callable[..., Any]] = {}

    def around(self, find: Callable[[str], Callable[..., Any]]) -> Callable[[str], Any]:
        """Instead of pynvml's own look-up of a C function."""

        def found(name: str) -> Callable[..., Any]:
            if name not in self._wrapped:
                self._wrapped[name] = self._timed(find(name))
            return self._wrapped[name]

        return found

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            before = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.spent_s += time.perf_counter() - before

        return called


def main(arguments: Sequence[str]) -> int:
    """The process with the library: prints the time of each scan."""
    import pynvml

    processes, count = (int(word) for word in arguments)
    clock = _Clock()
    pynvml._nvmlGetFunctionPointer = clock.around(pynvml._nvmlGetFunctionPointer)
    driver = PynvmlDriver(HostFs())
    uuids = [device.uuid for device in devices_of(driver.machine())]
    own, inside = [], []
    for _ in range(count):
        clock.spent_s, before = 0.0, time.perf_counter()
        seen = observation.usage(driver, uuids, lambda *_: None)
        took_s = time.perf_counter() - before
        counts = {usage.processes for usage in seen.values()}
        if len(seen) != len(uuids) or counts != {processes}:
            raise RuntimeError(f"{len(seen)} GPUs with {counts} processes were seen")
        own.append((took_s - clock.spent_s) * 1000)
        inside.append(clock.spent_s * 1000)
    driver.close()
    sys.stdout.write(json.dumps({"own_ms": own, "inside_ms": inside}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
