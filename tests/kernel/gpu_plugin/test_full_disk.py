# SPDX-License-Identifier: Apache-2.0
"""A disk without room for the files that containers see."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.hostfs import PROC
from agents.logs import get_logger
from agents.mounts import LinuxMounts
from gpu_plugin.accounting import GpuContainer
from gpu_plugin.allocation import Share, SharedDevice
from gpu_plugin.container_pages import Batch, ContainerPages
from gpu_plugin.identity import Allocations
from tests.fakes.gpu_scans import DEVICES, FIRST, GIB, container, grant, scan, use, verdict


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    LinuxMounts().mount("small", path, "tmpfs", data="size=128k")
    try:
        yield path
    finally:
        LinuxMounts().unmount(path)


def batch(found: GpuContainer, at: float) -> Batch:
    return Batch(scan(found, at=at), verdict(found), {}, DEVICES, simulated=True)


@pytest.mark.loud
def test_the_old_files_stay_until_there_is_room_again(small_disk: Path) -> None:
    allocations = Allocations(small_disk / "gpu")
    allocations.prepare()
    device = SharedDevice(FIRST, "V100", None, (0,), 8 * GIB)
    directory = allocations.make(Share("nodeshare/gpu-memory", (device,), simulated=True))
    pages = ContainerPages(allocations.containers, PROC, get_logger())

    def write(used: int, at: float) -> int:
        mine = container("ada", grant(directory.name), use(11, used))
        return pages.write(batch(mine, at))

    assert write(GIB, 100.0) == 0
    names = set(directory.iterdir())
    with (small_disk / "filler").open("wb", buffering=0) as filler:
        for size in (4096, 1):
            while True:
                try:
                    filler.write(b"x" * size)
                except OSError:
                    break
    for at in (101.0, 102.0):
        assert write(2 * GIB, at) == 1
        assert set(directory.iterdir()) == names, "nothing half written is left"
        assert " 1.0 GiB " in (directory / "status").read_text()
        json.loads((directory / "status.json").read_text())
    (small_disk / "filler").unlink()
    assert write(2 * GIB, 103.0) == 0
    assert " 2.0 GiB " in (directory / "status").read_text()
