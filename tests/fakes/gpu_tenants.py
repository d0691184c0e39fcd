# SPDX-License-Identifier: Apache-2.0
"""Real containers whose real processes hold memory of simulated GPUs, listed by the C library with
the pids that they have on this machine.
"""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from agents.hostfs import CGROUP, CONTAINER_GPU_DIR, PROC, HostFs
from agents.standin.cgroup_tree import hierarchies
from agents.standin.pods import RunningContainer, Volume
from agents.standin.runtime import ContainerRunner
from gpu_plugin import observation
from gpu_plugin.accounting import Accounting, ContainerKey, GpuContainer
from gpu_plugin.accounts import Accounts
from gpu_plugin.allocation import Hardware, Share, SharedDevice
from gpu_plugin.identity import Allocations
from gpu_plugin.inventory import devices_of
from gpu_plugin.nvml import Nvml
from gpu_plugin.simulated.description import SimulatedMachine
from gpu_plugin.simulated.nvml import SimulatedNvml
from gpu_plugin.simulated.state import SimulatedState
from tests.fakes.containers import FOREVER, container, eventually
from tests.fakes.nvml.remote import DriverProcess
from tests.fakes.nvml.shared_object import render_flat

GIB = 1 << 30
RESOURCE = "nodeshare/gpu-memory"


#: Into namespaces of one's own, with another root, and the old one let go: no mount of it is left.
HIDE = """
mount -t tmpfs tmpfs /tmp && cd /tmp && mkdir usr proc dev old bin lib lib64
for each in usr dev bin lib lib64; do mount --rbind /$each $each; done
mount --rbind /proc proc
pivot_root . old && cd / && umount -l old
exec sleep 1000
"""


class GpuTenants:
    """Starts containers with and without units, and accounts for what their processes hold.

    Without a process that drives the C library, the simulation answers.
    """

    def __init__(
        self,
        directory: Path,
        runner: ContainerRunner,
        machine: SimulatedMachine,
        library_driver: DriverProcess | None,
    ) -> None:
        self.host = HostFs()
        self.runner, self.machine = runner, machine
        self.state = SimulatedState(directory / "gpu-state")
        if library_driver is None:
            self.nvml: Nvml = SimulatedNvml(machine, self.state.path)
        else:
            description = directory / "machine"
            description.write_text(render_flat(machine))
            self.nvml = library_driver.open(description, self.state.path, self.host)
        self.allocations = Allocations(directory / "state/gpu")
        self.allocations.prepare()
        self.accounts = Accounts(self.host, self.allocations)
        self.devices = devices_of(self.nvml.machine())
        self.given = 0

    @property
    def gpu(self) -> str:
        """The device that containers are given unless they ask for another."""
        return self.devices[0].uuid

    def allocate(self, units: int, device: str | None = None) -> Path:
        """Units of 1 GiB, as Allocate gives them: the directory to mount."""
        device = device or self.gpu
        numbers = tuple(range(self.given, self.given + units))
        self.given += units
        shared = SharedDevice(
            device,
            "Tesla V100",
            None,
            numbers,
            units * GIB,
            hardware=Hardware(device, None, 32 * GIB, GIB),
        )
        return self.allocations.make(Share(RESOURCE, (shared,), simulated=False))

    def start(
        self,
        *command: str,
        directories: Sequence[Path] = (),
        volumes: Sequence[Volume] = (),
        pod_uid: str | None = None,
    ) -> RunningContainer:
        """A container, each of the directories mounted as the plugin has them mounted."""
        mounts = [
            Volume(directory, f"{CONTAINER_GPU_DIR}{number or ''}", read_only=True)
            for number, directory in enumerate(directories)
        ]
        start = container(*(command or FOREVER), volumes=(*mounts, *volumes))
        return self.runner.start(replace(start, pod_uid=pod_uid or str(uuid.uuid4())))

    def tenant(self, units: int, *command: str, device: str | None = None) -> RunningContainer:
        """A container that was given units."""
        return self.start(*command, directories=[self.allocate(units, device)])

    def account(self) -> Accounting:
        """One scan, as the agent makes it."""
        readings = observation.readings(self.nvml, self.devices, lambda *_: None)
        return self.accounts.account(readings)

    def find(self, accounting: Accounting, running: RunningContainer) -> GpuContainer:
        """What was found of a container. Raises KeyError when it is not there."""
        return {one.key: one for one in accounting.containers}[key_of(running)]


def key_of(running: RunningContainer) -> ContainerKey:
    return ContainerKey(running.start.pod_uid, running.start.id)


def children(pid: int) -> list[int]:
    """Of this process's first thread, oldest first."""
    return [int(one) for one in (PROC / f"{pid}/task/{pid}/children").read_text().split()]


def child(pid: int, command: str, *, depth: int = 1) -> int:
    """The descendant with this name, as soon as it is there."""
    found: list[int] = []

    def there() -> bool:
        level = [pid]
        for _ in range(depth):
            level = [each for one in level for each in children(one)]
        found[:] = [one for one in level if (PROC / f"{one}/comm").read_text() == f"{command}\n"]
        return bool(found)

    eventually(there, f"a process {command!r} below {pid}")
    return found[0]


@contextmanager
def in_cgroup_below(running: RunningContainer, name: str) -> Iterator[int]:
    """A process in a cgroup that a container made below its own."""
    own = [root / running.cgroup.lstrip("/") for root in hierarchies(CGROUP)]
    made = [path / name for path in own if path.is_dir()]
    process = subprocess.Popen(["sleep", "1000"])
    try:
        for path in made:
            path.mkdir(parents=True)
            for cpuset in ("cpuset.cpus", "cpuset.mems"):
                for level in reversed([path, *path.parents[: name.count("/") + 1]]):
                    if (level / cpuset).exists() and not (level / cpuset).read_text().strip():
                        (level / cpuset).write_text((level.parent / cpuset).read_text())
            (path / "cgroup.procs").write_text(str(process.pid))
        yield process.pid
    finally:
        process.kill()
        process.wait(10)
        for path in made:
            for level in [path, *path.parents[: name.count("/")]]:
                level.rmdir()
