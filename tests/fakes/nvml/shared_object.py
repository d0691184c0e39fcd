# SPDX-License-Identifier: Apache-2.0
"""Builds the simulated `libnvidia-ml.so.1` and writes machine descriptions the way it reads them.

Knows no pynvml. What happens on the machine comes from the state file that the simulation reads.
"""

from __future__ import annotations

import enum
import subprocess
from collections.abc import Iterator
from pathlib import Path

from agents.hostfs import HostFs
from gpu_plugin.simulated.description import MigMode, SimulatedMachine

SONAME = "libnvidia-ml.so.1"
_SOURCES = Path(__file__).parent
_MIG = {MigMode.UNSUPPORTED: 0, MigMode.DISABLED: 1, MigMode.ENABLED: 2}


class Variant(enum.Enum):
    """Which driver the library is of. The value is the macro it is compiled with."""

    NEW = "NEW_DRIVER"
    OLD = "OLD_DRIVER"


def build(directory: Path, variant: Variant = Variant.NEW) -> Path:
    """Compile the library into a folder of its own below `directory`, which is returned."""
    target = directory / variant.name.lower()
    target.mkdir(parents=True)
    subprocess.run(
        [
            *("gcc", "-std=c11", "-D_GNU_SOURCE", f"-D{variant.value}", "-O1", "-pthread"),
            *("-Wall", "-Wextra", "-fPIC", "-shared", f"-Wl,-soname,{SONAME}"),
            *("-o", str(target / SONAME)),
            *(str(source) for source in sorted(_SOURCES.glob("*.c"))),
        ],
        check=True,
        timeout=120,
    )
    return target


def render_flat(machine: SimulatedMachine, host: HostFs | None = None) -> str:
    """A description as the C library reads it: one device a line, no optional words."""
    return "\n".join([*_lines(machine, host or HostFs()), ""])


def _lines(machine: SimulatedMachine, host: HostFs) -> Iterator[str]:
    yield f"driver {machine.driver_version}"
    yield f"limits {int(machine.memory_limits)}"
    yield f"proc {host.proc}"
    yield f"cgroup {host.cgroup}"
    for gpu in machine.gpus:
        numa = -1 if gpu.numa_node is None else gpu.numa_node
        # NVML writes the PCI domain with eight digits, and in capitals.
        pci = f"0000{gpu.pci_bus_id.upper()}"
        place = f"{gpu.uuid} {gpu.index} {gpu.minor} {pci} {numa}"
        yield f"gpu {place} {gpu.memory} {gpu.reserved} {_MIG[gpu.mig]} {gpu.model}"
        for each in gpu.slices:
            instances = f"{each.gpu_instance} {each.compute_instance}"
            slices = f"{each.gpu_slices} {each.compute_slices}"
            memory = f"{each.memory} {each.reserved}"
            place = f"{gpu.index} {each.uuid} {each.index}"
            yield f"slice {place} {instances} {slices} {memory} {each.profile}"
