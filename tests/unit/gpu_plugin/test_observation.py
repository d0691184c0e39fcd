# SPDX-License-Identifier: Apache-2.0
"""What the host's trees add to what the driver tells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agents.hostfs import HostFs
from gpu_plugin.observation import inventory
from tests.fakes.gpus import gpu, machine


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
