# SPDX-License-Identifier: Apache-2.0
"""A simulated machine on disk, with a process table of its own, seen by either implementation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agents.hostfs import HostFs
from gpu_plugin.nvml import Nvml
from gpu_plugin.simulated.description import SimulatedMachine
from gpu_plugin.simulated.state import SimulatedState
from tests.fakes.nvml.shared_object import render_flat


@dataclass(frozen=True, slots=True)
class Bench:
    """One machine under test. `host` is a recorded tree: `start` and `end` make its processes."""

    machine: SimulatedMachine
    description: Path
    state_path: Path
    state: SimulatedState
    host: HostFs

    @property
    def uuids(self) -> list[str]:
        """All GPUs and slices."""
        gpus = self.machine.gpus
        return [uuid for gpu in gpus for uuid in (gpu.uuid, *(each.uuid for each in gpu.slices))]

    def start(self, pid: int, *, start_ticks: int = 1000, cgroup: str = "/") -> int:
        """A process with an odd name, in a cgroup v2."""
        directory = self.host.proc / str(pid)
        directory.mkdir(exist_ok=True)
        fields = ["1"] * 18 + [str(start_ticks)] + ["0"] * 20
        (directory / "stat").write_text(f"{pid} (a ) odd) S {' '.join(fields)}\n")
        (directory / "cgroup").write_text(f"1:name=systemd:/init.scope\n0::{cgroup}\n")
        return pid

    def end(self, pid: int) -> None:
        for name in ("stat", "cgroup"):
            (self.host.proc / str(pid) / name).unlink()
        (self.host.proc / str(pid)).rmdir()

    def zombify(self, pid: int) -> None:
        stat = self.host.proc / str(pid) / "stat"
        stat.write_text(stat.read_text().replace(") S ", ") Z "))


#: Opens the machine by the implementation under test.
OpenNvml = Callable[[Bench], Nvml]


def lay_out(machine: SimulatedMachine, directory: Path) -> Bench:
    """Files of a machine below `directory`."""
    host = HostFs(*(directory / name for name in ("proc", "sys", "dev", "cgroup")))
    for path in (host.proc, host.sys, host.dev, host.cgroup):
        path.mkdir()
    description = directory / "machine"
    description.write_text(render_flat(machine, host))
    state_path = directory / "state"
    state = SimulatedState(state_path, proc=host.proc)
    return Bench(machine, description, state_path, state, host)
