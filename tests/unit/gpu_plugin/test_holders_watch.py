# SPDX-License-Identifier: Apache-2.0
"""When it is looked for allocations to mend."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest
import trio
from prometheus_client import CollectorRegistry

from agents.logs import get_logger
from agents.podresources import PodDevices
from gpu_plugin.allocation import Share, SharedDevice
from gpu_plugin.holders_watch import HoldersWatch, Timing
from gpu_plugin.identity import Allocations
from gpu_plugin.ledger import Ledger
from gpu_plugin.metrics import Counters

RESOURCE = "nodeshare/gpu-memory"
SHARE = Share(RESOURCE, (SharedDevice("GPU-1", "V100", None, (0,), 1),), simulated=False)


class Listing:
    """Lists what a test put into `pods`."""

    def __init__(self) -> None:
        self.pods: tuple[PodDevices, ...] = ()

    def list(self) -> tuple[PodDevices, ...]:
        return self.pods

    def allocatable(self) -> dict[str, tuple[str, ...]]:
        return {}


@pytest.mark.loud
async def test_a_rebooted_node_mends_when_the_kubelet_first_lists_its_pods(tmp_path: Path) -> None:
    allocations, listing = Allocations(tmp_path / "gpu"), Listing()
    allocations.prepare()
    directory = allocations.make(SHARE)
    shutil.rmtree(directory)
    (tmp_path / "proc").mkdir()
    watch = HoldersWatch(
        listing,
        Ledger(),
        allocations,
        Timing(look_s=0.02),
        ours=[RESOURCE],
        proc=tmp_path / "proc",
        counters=Counters(CollectorRegistry()),
        log=get_logger(),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(watch.run, lambda: None, exact=False))
        await watch.asked.wait()
        await trio.sleep(0.2)
        assert not directory.exists()
        listing.pods = (PodDevices("ada", "hub", {"main": {RESOURCE: ("GPU-1::0",)}}),)
        with trio.fail_after(10):
            while not (directory / "share.json").exists():
                await trio.sleep(0.02)
        nursery.cancel_scope.cancel()
