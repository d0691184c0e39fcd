# SPDX-License-Identifier: Apache-2.0
"""Both implementations of `Nvml` on the same machines: the simulation, and our driver over C."""

from __future__ import annotations

import enum
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpu_plugin.nvml import Nvml
from gpu_plugin.simulated.description import SimulatedMachine, known_machines, load_machine
from gpu_plugin.simulated.nvml import SimulatedNvml
from tests.fakes.nvml.machines import Bench, OpenNvml, lay_out
from tests.fakes.nvml.remote import DriverProcess, driver_process
from tests.fakes.nvml.shared_object import Variant, build

#: What no shipped machine has: gaps in the numbering, an instance that is cut further.
ODD_MACHINE = """
    machine:
      name: odd
      driver_version: 615.71.05
      memory_limits: true
      gpus:
        - {model: "Odd: GPU 0", memory: 16GiB, pci: ["0001:c1:02.0"], minors: [9]}
        - model: NVIDIA A30
          memory: 24GiB
          reserved: 300MiB
          mig: enabled
          minors: [3]
          slices:
            - {profile: 1g.6gb, gpu_instance: 5, memory: 5952MiB, reserved: 12MiB, index: 6}
            - {profile: 1c.2g.12gb, gpu_instance: 1, memory: 11968MiB, index: 1}
            - {profile: 1c.2g.12gb, gpu_instance: 1, compute_instance: 1, memory: 11968MiB}
            - {profile: 1g.6gb+me, gpu_instance: 6, compute_instance: 3, memory: 5952MiB, index: 4}
        - {model: NVIDIA H100, memory: 80GiB, reserved: 1GiB, mig: enabled, numa: [3]}
"""


class Implementation(enum.Enum):
    SIMULATED = "simulated"
    DRIVER = "driver"


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[Variant, Path]:
    """The C library, compiled once for each kind of driver."""
    directory = tmp_path_factory.mktemp("nvml")
    return {variant: build(directory, variant) for variant in Variant}


@pytest.fixture(scope="session")
def new_driver(libraries: dict[Variant, Path]) -> Iterator[DriverProcess]:
    with driver_process(libraries[Variant.NEW]) as process:
        yield process


@pytest.fixture(scope="session")
def old_driver(libraries: dict[Variant, Path]) -> Iterator[DriverProcess]:
    with driver_process(libraries[Variant.OLD]) as process:
        yield process


def machine_named(name: str, directory: Path) -> SimulatedMachine:
    if name != "odd":
        return load_machine(name)
    path = directory / "odd.yaml"
    path.write_text(textwrap.dedent(ODD_MACHINE))
    return load_machine(path)


@pytest.fixture(params=[*known_machines(), "odd"])
def any_bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    """Every machine in turn."""
    return lay_out(machine_named(request.param, tmp_path), tmp_path)


@pytest.fixture
def bench_of(tmp_path: Path) -> Callable[[str], Bench]:
    """Lays out the machine of this name."""
    return lambda name: lay_out(machine_named(name, tmp_path), tmp_path)


@pytest.fixture
def demo(bench_of: Callable[[str], Bench]) -> Bench:
    """Two V100 and one A100 with four slices."""
    return bench_of("demo")


@pytest.fixture(params=Implementation)
def open_nvml(request: pytest.FixtureRequest) -> Iterator[OpenNvml]:
    """Opens a machine by either implementation."""
    opened: list[Nvml] = []

    def open_it(bench: Bench) -> Nvml:
        if request.param is Implementation.SIMULATED:
            nvml: Nvml = SimulatedNvml(bench.machine, bench.state_path, host=bench.host)
        else:
            process: DriverProcess = request.getfixturevalue("new_driver")
            nvml = process.open(bench.description, bench.state_path, bench.host)
        opened.append(nvml)
        return nvml

    yield open_it
    for nvml in opened:
        nvml.close()
