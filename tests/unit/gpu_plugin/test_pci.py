# SPDX-License-Identifier: Apache-2.0
"""NVIDIA GPUs on the PCI bus, told from a tree like the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.hostfs import HostFs
from gpu_plugin.devices import LostGpu
from gpu_plugin.observation import inventory
from gpu_plugin.pci import gpus_on_bus
from tests.fakes.gpus import gpu, machine


@pytest.fixture
def host(tmp_path: Path) -> HostFs:
    host = HostFs(*(tmp_path / name for name in ("proc", "sys", "dev", "cgroup")))
    host.pci_devices.mkdir(parents=True)
    return host


def put(host: HostFs, address: str, vendor: str, kind: str, driver: str | None = None) -> Path:
    device = host.pci_devices / address
    device.mkdir()
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    if driver is not None:
        target = host.sys / "bus/pci/drivers" / driver
        target.mkdir(parents=True, exist_ok=True)
        (device / "driver").symlink_to(target)
    return device


def test_only_gpus_that_are_this_node_s_own_count(host: HostFs) -> None:
    put(host, "0000:5e:00.0", "0x10de", "0x030200", "nvidia")
    put(host, "0000:3b:00.0", "0x10de", "0x030000")
    put(host, "0000:3b:00.1", "0x10de", "0x040300", "snd_hda_intel")
    put(host, "0000:04:00.0", "0x1a03", "0x030000", "ast")
    put(host, "0000:c1:00.0", "0x10de", "0x030200", "vfio-pci")
    put(host, "0000:5e:00.4", "0x10de", "0x030200").joinpath("physfn").symlink_to("..")
    put(host, "0000:c5:00.0", "0x10de", "0x068000")  # an NVSwitch
    (host.pci_devices / "0000:ff:00.0").mkdir()  # it went while we looked
    assert gpus_on_bus(host) == ("0000:3b:00.0", "0000:5e:00.0")


def test_no_bus_is_no_gpu_and_no_view_is_unknown(host: HostFs, tmp_path: Path) -> None:
    assert gpus_on_bus(host) == ()
    assert gpus_on_bus(HostFs(sys=tmp_path / "elsewhere")) is None
    (tmp_path / "board/bus/platform").mkdir(parents=True)
    assert gpus_on_bus(HostFs(sys=tmp_path / "board")) == ()


def test_a_gpu_that_the_driver_does_not_list_is_found(host: HostFs) -> None:
    for address in ("0000:00:00.0", "0000:01:00.0", "0000:02:00.0"):
        put(host, address, "0x10de", "0x030200", "nvidia")
    known = LostGpu(1, gpu(1).uuid, "not listed any more", "0000:01:00.0")
    found = inventory(machine(gpu(0), lost=(known,)), host)
    assert found.unlisted == ("0000:02:00.0",)
    nameless = machine(gpu(0), lost=(known, LostGpu(2, None, "GPU is lost")))
    assert inventory(nameless, host).unlisted == (), "it may be that one"
    assert inventory(machine(simulated=True), host).unlisted == ()
