# SPDX-License-Identifier: Apache-2.0
"""Limits of the driver on a real cgroup2, here and in the guest; the driver is simulated."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from agents.hostfs import CGROUP, HostFs
from agents.logs import get_logger
from agents.standin.cgroup_tree import remove_empty
from gpu_plugin.devices import MemoryLimits
from gpu_plugin.driver_limits import DriverLimits, Timing
from gpu_plugin.driver_record import LimitRecord
from gpu_plugin.simulated.description import load_machine
from gpu_plugin.simulated.nvml import SimulatedNvml
from gpu_plugin.verdicts import Limits
from tests.fakes.gpu_scans import FIRST, GIB, container, grant, scan

ROOT = CGROUP if (CGROUP / "cgroup.controllers").exists() else CGROUP / "unified"


@pytest.fixture
def cgroup() -> Iterator[Path]:
    path = ROOT / f"nodeshare-test-{secrets.token_hex(4)}"
    path.mkdir()
    yield path
    if path.exists():
        path.rmdir()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not condition():
            await trio.sleep(0.005)


def test_the_guarantee_goes_with_the_last_process(cgroup: Path, tmp_path: Path) -> None:
    """Told by the kernel, not by the next look; and it is not set again meanwhile."""
    trio.run(_live_and_end, cgroup, tmp_path)  # the guest's pytest knows no trio
    assert remove_empty(CGROUP, cgroup.name)


async def _live_and_end(cgroup: Path, tmp_path: Path) -> None:
    host = HostFs(cgroup=ROOT)
    machine = replace(load_machine("demo"), memory_limits=True)
    nvml = SimulatedNvml(machine, tmp_path / "state", host=host)
    record = LimitRecord(tmp_path / "limits")
    driver = DriverLimits(nvml, host, record, Timing(verify_s=60.0), log=get_logger(agent="gpu"))
    ada = replace(container("ada", grant("ada", 4)), cgroup=f"/{cgroup.name}")
    limits = {ada.key: {FIRST: Limits(4 * GIB, 8 * GIB, 4 * GIB, "the test")}}

    def found() -> MemoryLimits:
        return replace(nvml.memory_limits(FIRST, str(cgroup)), used=None)

    with subprocess.Popen(["sleep", "60"]) as first, subprocess.Popen(["sleep", "60"]) as last:
        try:
            for process in (first, last):
                (cgroup / "cgroup.procs").write_text(str(process.pid))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(driver.run)
                driver.want(scan(ada), limits, 1)
                await until(lambda: driver.in_force == {(ada.key, FIRST)})
                assert found() == MemoryLimits(4 * GIB, 8 * GIB)
                first.kill()
                first.wait()
                await trio.sleep(0.05)
                assert found() == MemoryLimits(4 * GIB, 8 * GIB)
                last.kill()
                last.wait()
                await until(lambda: found() == MemoryLimits(None, None))
                driver.want(scan(ada), limits, 1)  # its directory is still there
                await until(lambda: "has ended" in str(driver.notes))
                assert found() == MemoryLimits(None, None)
                assert record.read() == frozenset()
                nursery.cancel_scope.cancel()
        finally:
            for process in (first, last):
                process.kill()
