# SPDX-License-Identifier: Apache-2.0
"""Device nodes that exist on the host, and only those."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.hostfs import HostFs
from gpu_plugin.device_nodes import missing, nodes_of
from gpu_plugin.inventory import devices_of
from tests.fakes.gpus import A100_SLICES, gpu, machine, mig_gpu


@pytest.fixture
def host(tmp_path: Path) -> HostFs:
    dev, proc = tmp_path / "dev", tmp_path / "proc"
    for name in ("nvidia0", "nvidia2", "nvidiactl", "nvidia-uvm", "nvidia-caps/nvidia-cap21"):
        (dev / name).parent.mkdir(parents=True, exist_ok=True)
        (dev / name).touch()
    host = HostFs(proc=proc, dev=dev)
    mig = host.gpu_capabilities(2) / "mig"
    for access, minor in (("gi2/access", 21), ("gi2/ci0/access", 22), ("gi3/access", 30)):
        (mig / access).parent.mkdir(parents=True, exist_ok=True)
        (mig / access).write_text(f"DeviceFileMinor: {minor}\nDeviceFileMode: 444\n")
    return host


def test_a_gpu_gets_its_node_and_the_control_nodes_that_exist(host: HostFs) -> None:
    first, second = devices_of(machine(gpu(0), gpu(1)))
    assert nodes_of(first, host) == ("nvidia0", "nvidiactl", "nvidia-uvm")
    assert nodes_of(second, host) == ("nvidiactl", "nvidia-uvm")


def test_a_slice_gets_its_parent_and_its_capability_nodes_that_exist(host: HostFs) -> None:
    slices = devices_of(machine(mig_gpu(2, A100_SLICES)))
    assert nodes_of(slices[0], host) == (
        "nvidia2",
        "nvidiactl",
        "nvidia-uvm",
        "nvidia-caps/nvidia-cap21",
    )
    # Its capability node is not on the host, and those of the others are not in /proc.
    assert nodes_of(slices[1], host) == ("nvidia2", "nvidiactl", "nvidia-uvm")


def test_no_nodes_on_a_machine_without_a_driver(tmp_path: Path) -> None:
    (device,) = devices_of(machine(gpu(0)))
    assert nodes_of(device, HostFs(dev=tmp_path, proc=tmp_path)) == ()


def test_what_is_missing_is_said_with_the_remedy(host: HostFs) -> None:
    whole, (first, *_) = devices_of(machine(gpu(0))), devices_of(machine(mig_gpu(2, A100_SLICES)))
    assert missing(whole, host) is None, "tools and displays are nobody's need"
    told = missing([*whole, first], host)
    assert told is not None
    assert "nvidia-caps/nvidia-cap22; containers start without them" in told
    assert "nvidia-modprobe" in told
    (host.dev / "nvidia-uvm").unlink()
    assert ": nvidia-uvm; " in str(missing(whole, host))
