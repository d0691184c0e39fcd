# SPDX-License-Identifier: Apache-2.0
"""What the host's trees add to what the driver tells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from agents.hostfs import HostFs
from gpu_plugin.devices import GpuProcess, Memory, ProcessKind
from gpu_plugin.inventory import devices_of
from gpu_plugin.nvml import NotPermitted, Nvml
from gpu_plugin.observation import inventory, readings
from tests.fakes.gpus import A100_SLICES, gpu, machine, mig_gpu


@pytest.fixture
def host(tmp_path: Path) -> HostFs:
    for name in ("proc", "sys", "dev", "cgroup"):
        (tmp_path / name).mkdir()
    for name in ("nvidia0", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    return HostFs(*(tmp_path / name for name in ("proc", "sys", "dev", "cgroup")))


def test_device_nodes_and_those_that_are_missing(host: HostFs) -> None:
    found = inventory(machine(gpu(0)), host)
    assert found.nodes == {gpu(0).uuid: ("nvidia0", "nvidiactl", "nvidia-uvm")}
    assert found.missing_nodes is None
    assert "nvidia1" in str(inventory(machine(gpu(0), gpu(1)), host).missing_nodes)


@pytest.mark.parametrize(
    ("driver", "unified", "limits"),
    [
        ("615.71.05", True, True),
        ("620.10", True, True),
        ("615.71.05", False, False),
        ("580.95.05", True, False),
        ("", True, False),
    ],
)
def test_a_driver_limits_cgroups_since_r615_and_with_v2_alone(
    host: HostFs, driver: str, unified: bool, limits: bool
) -> None:
    if unified:
        (host.cgroup / "cgroup.controllers").touch()
    found = inventory(replace(machine(gpu(0)), driver_version=driver), host)
    assert found.limits_memory is limits


def test_a_simulated_machine_has_no_more(host: HostFs) -> None:
    found = inventory(replace(machine(gpu(5)), simulated=True), host)
    assert (found.nodes, found.missing_nodes, found.limits_memory) == ({}, None, False)


class Slices:
    """A driver that lists processes of slices, and of their GPU if it may."""

    def __init__(self, *, of_gpu: bool = True, with_instance: bool = True) -> None:
        self._of_gpu, self._with_instance = of_gpu, with_instance
        self.asked: list[str] = []

    def memory(self, uuid: str) -> Memory:
        return Memory(10, 0, 0, 10)

    def processes(self, uuid: str) -> tuple[GpuProcess, ...]:
        self.asked.append(uuid)
        slices = {each.uuid: each for each in MIG_GPU.slices}
        if uuid in slices:
            instance = slices[uuid].gpu_instance
            return (GpuProcess(instance, 1, ProcessKind.COMPUTE, instance, 0),)
        if not self._of_gpu:
            raise NotPermitted("no")
        return tuple(
            GpuProcess(number, 1, ProcessKind.COMPUTE, number if self._with_instance else None, 0)
            for number in (2, 3, 9, 9, 10, 77)
        )


MIG_GPU = mig_gpu(0, A100_SLICES)


@pytest.mark.parametrize(
    ("nvml", "questions"),
    [(Slices(), 1), (Slices(of_gpu=False), 5), (Slices(with_instance=False), 5)],
)
def test_a_gpu_is_asked_once_for_the_processes_of_its_slices(nvml: Slices, questions: int) -> None:
    devices = devices_of(machine(MIG_GPU))
    found = readings(cast("Nvml", nvml), devices, lambda *_: None)
    told = {uuid: {one.pid for one in reading.processes or ()} for uuid, reading in found.items()}
    assert told == {each.uuid: {each.gpu_instance} for each in MIG_GPU.slices}
    assert len(nvml.asked) == questions
