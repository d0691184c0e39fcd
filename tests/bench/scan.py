# SPDX-License-Identifier: Apache-2.0
"""Who uses which GPU: 8 GPUs with 25 processes each, and with 100, in real containers.

A scan is what the agent does every second: ask the driver, and tell whose the processes are. 25
containers hold units.

The agent's own driver (pynvml) over the simulated C library, in a process of its own because the
library is found by the loader's path. CPU time inside the library is measured around each of its
functions and reported beside our own: a real one is slower or faster, ours stays what it is.

The peer is the loop that MetaGPU makes every 5 seconds, in the same process with the same driver:
for each process of each GPU it reads cgroup and command line anew and looks its container up. What
it does besides (an exec of printenv in each container, through the API server) is left out.

Run as a program it is that process: machine directory, processes a GPU, number of scans.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents.hostfs import CONTAINER_GPU_DIR, PROC, HostFs
from agents.standin.pods import Volume
from agents.standin.runtime import ContainerRunner
from gpu_plugin import observation
from gpu_plugin.accounts import Accounts
from gpu_plugin.allocation import Hardware, Share, SharedDevice
from gpu_plugin.driver import PynvmlDriver
from gpu_plugin.identity import Allocations
from gpu_plugin.inventory import devices_of
from gpu_plugin.simulated.description import load_machine
from gpu_plugin.simulated.state import SimulatedState
from tests.bench.measure import Context, Figure, Row, at_most, median
from tests.bench.workplace import Workplace, needs, needs_kernel, python, workplace
from tests.fakes.containers import container
from tests.fakes.gpu_tenants import GIB, children
from tests.fakes.nvml.shared_object import build, render_flat

_MACHINE = "h100x8"
_CONTAINERS = 25
_FEW, _MANY = 25, 100
_PEER_PERIOD_S = 5.0
_START_S = 20.0


def measure(context: Context) -> Sequence[Row]:
    """Rows of milliseconds for one scan."""
    needs("gcc", "apt-get install gcc libc6-dev")
    needs_kernel(context)
    with workplace(context) as place:
        library = build(place.directory / "library")
        place.configure()
        with place.cluster() as (_, runner):
            few = _scans(place, library, runner, _FEW)
            many = _scans(place, library, runner, _MANY)
    scale, inside, loop = _MANY / _FEW, "inside the simulated NVML", "MetaGPU's loop"
    note = f"every 1 s, MetaGPU every {_PEER_PERIOD_S:g} s"
    return [
        Row(
            f"scan of 8 GPUs x {_FEW} processes, own work",
            few["own"],
            inside,
            few["inside"],
            at_most(10, "ms"),
        ),
        Row("the same, beside a peer", few["own"], loop, few["peer"], note=note),
        Row("of it: procfs and joining", few["accounting"]),
        Row("the first one, with nothing known", few["first"]),
        Row(
            f"scan of 8 GPUs x {_MANY} processes, own work",
            many["own"],
            inside,
            many["inside"],
        ),
        Row("the same, beside a peer", many["own"], loop, many["peer"], note=note),
        Row(
            f"the same, {scale:g} times the processes",
            many["own"],
            f"x {_FEW} processes",
            few["own"],
            note=f"linear is {scale:g}",
        ),
    ]


def _scans(
    place: Workplace, library: Path, runner: ContainerRunner, processes: int
) -> dict[str, Figure]:
    """What the process with the library tells, the median of all scans."""
    laid = place.directory / f"machine{processes}"
    laid.mkdir()
    machine = load_machine(_MACHINE)
    (laid / "machine").write_text(render_flat(machine))
    state = SimulatedState(laid / "gpu-state")
    allocations = Allocations(laid / "state/gpu")
    allocations.prepare()
    started = []
    pids: list[int] = []
    for number in range(_CONTAINERS):
        count = processes * len(machine.gpus) // _CONTAINERS
        script = f"for i in $(seq {count}); do sleep 10000 & done; wait"
        given = machine.gpus[number % len(machine.gpus)]
        shared = SharedDevice(
            given.uuid,
            given.model,
            None,
            (number,),
            GIB,
            hardware=Hardware(given.uuid, None, given.memory, GIB),
        )
        directory = allocations.make(Share("nodeshare/gpu-memory", (shared,), simulated=False))
        volume = Volume(directory, CONTAINER_GPU_DIR, read_only=True)
        start = container("sh", "-c", script, volumes=(volume,))
        started.append(runner.start(replace(start, pod_uid=str(uuid.uuid4()))))
        deadline = time.monotonic() + _START_S
        while len(children(started[-1].pid)) < count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"not all processes run after {_START_S:g} s")
            time.sleep(0.01)
        pids += children(started[-1].pid)
    for number, pid in enumerate(pids):
        state.hold(machine.gpus[number % len(machine.gpus)].uuid, pid, GIB // 2)
    argv = [
        *("env", f"LD_LIBRARY_PATH={library}"),
        f"NODESHARE_NVML_MACHINE={laid / 'machine'}",
        f"NODESHARE_NVML_STATE={state.path}",
        *(python(), "-m", "tests.bench.scan"),
        *(str(laid), str(processes), str(place.context.pick(100, 5))),
    ]
    told = json.loads(place.run(argv))
    for one in started:
        runner.remove(one.start.id)
    return {name: median(values, "ms") for name, values in told.items()}


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
            before = time.thread_time()
            try:
                return function(*arguments)
            finally:
                self.spent_s += time.thread_time() - before

        return called

    def own_ms(self, work: Callable[[], object]) -> tuple[float, float]:
        """Milliseconds of CPU time of some work, outside and inside the library."""
        self.spent_s, before = 0.0, time.thread_time()
        work()
        took_s = time.thread_time() - before
        return (took_s - self.spent_s) * 1000, self.spent_s * 1000


def _metagpus_loop(driver: PynvmlDriver, uuids: Sequence[str], containers: Sequence[str]) -> None:
    """Every process of every GPU from scratch; containers are looked through one by one."""
    for device in uuids:
        driver.memory(device)
        for process in driver.processes(device):
            (PROC / f"{process.pid}/cmdline").read_bytes()
            lines = (PROC / f"{process.pid}/cgroup").read_text().splitlines()
            name = next((line.rpartition("/")[2] for line in lines if "memory" in line), "")
            found = [one for one in containers if one == name]
            if len(found) > 1:
                raise RuntimeError("an id is twice in the list")


def main(arguments: Sequence[str]) -> int:
    """The process with the library: prints the time of each scan."""
    import pynvml

    laid, processes, count = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    clock = _Clock()
    pynvml._nvmlGetFunctionPointer = clock.around(pynvml._nvmlGetFunctionPointer)
    driver = PynvmlDriver(HostFs())
    devices = devices_of(driver.machine())
    accounts = Accounts(HostFs(), Allocations(laid / "state/gpu"))
    told: dict[str, list[float]] = {
        name: [] for name in ("own", "inside", "accounting", "first", "peer")
    }
    for turn in range(count + 1):
        readings: dict[str, Any] = {}
        asked, inside = clock.own_ms(
            lambda: readings.update(observation.readings(driver, devices, lambda *_: None))  # noqa: B023 -- runs now
        )
        accounting, _ = clock.own_ms(lambda: accounts.account(readings))  # noqa: B023 -- runs now
        if turn == 0:
            told["first"].append(asked + accounting)
            continue
        told["own"].append(asked + accounting)
        told["accounting"].append(accounting)
        told["inside"].append(inside)
    found = accounts.account(readings)
    seen = sum(len(one.uses) for one in found.containers if one.grants != ())
    if len(found.containers) != _CONTAINERS or seen != processes * len(devices):
        raise RuntimeError(f"{len(found.containers)} containers with {seen} processes were seen")
    ids = [one.key.container_id for one in found.containers]
    uuids = [device.uuid for device in devices]
    for _ in range(count):
        told["peer"].append(clock.own_ms(lambda: _metagpus_loop(driver, uuids, ids))[0])
    driver.close()
    sys.stdout.write(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
