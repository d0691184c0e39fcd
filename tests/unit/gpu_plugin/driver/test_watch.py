# SPDX-License-Identifier: Apache-2.0
"""The watch over a driver: what it learns, how soon, and what a GPU that fails costs the others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from prometheus_client import CollectorRegistry

from agents.hostfs import HostFs
from agents.logs import get_logger
from gpu_plugin.devices import Outline
from gpu_plugin.driver_watch import DriverWatch, Timing
from gpu_plugin.health_config import HealthConfig
from gpu_plugin.inventory import devices_of
from gpu_plugin.measured import MeasuredNvml
from gpu_plugin.metrics import Counters
from gpu_plugin.nvml import NoDriver, Nvml
from gpu_plugin.readings import Readings
from gpu_plugin.simulated.nvml import SimulatedNvml
from tests.fakes.nvml.machines import Bench, OpenNvml
from tests.fakes.nvml.remote import DriverProcess

pytestmark = [pytest.mark.processes, pytest.mark.loud]

FAST = Timing(
    usage_s=0.02,
    idle_s=0.02,
    patience_s=0.05,
    pause_s=0.01,
    inventory_s=0.05,
    limit_s=0.4,
    reopen_s=0.05,
    longest_reopen_s=0.2,
    listen_again_s=0.05,
)
LIMIT_S = 15.0


@pytest.fixture
def driver(demo: Bench, new_driver: DriverProcess) -> Iterator[Nvml]:
    """Our driver over the C library: what it does to a machine, the simulation does too."""
    opened = new_driver.open(demo.description, demo.state_path, demo.host)
    yield opened
    opened.close()


class Watched:
    """A watch that runs, and what can be asked of it."""

    def __init__(self, nvml: Nvml, host: HostFs) -> None:
        self.registry = CollectorRegistry()
        counters = Counters(self.registry)
        self.watch = DriverWatch(
            MeasuredNvml(nvml, counters),
            host,
            HealthConfig(recover_after=2),
            FAST,
            counters=counters,
            log=get_logger(),
        )

    def sick(self) -> dict[str, str]:
        """Why not, by device; of the machine as it was last seen."""
        found = self.watch.inventory
        devices = devices_of(found.machine) if found else ()
        verdicts = {device.uuid: self.watch.health.verdict(device) for device in devices}
        return {uuid: reason for uuid, reason in verdicts.items() if reason is not None}

    def lost(self) -> dict[str | None, str]:
        found = self.watch.inventory
        return {gpu.uuid: gpu.reason for gpu in (found.machine.lost if found else ())}

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"nodeshare_gpu_{name}", labels) or 0

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.move_on_after(LIMIT_S) as scope:
            while not condition():
                await trio.sleep(0.01)
        assert not scope.cancelled_caught, (self.sick(), self.lost(), self.watch.problem)


@asynccontextmanager
async def watching(nvml: Nvml, host: HostFs) -> AsyncIterator[Watched]:
    made = Watched(nvml, host)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.watch.run, lambda: None)
        yield made
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def listening(nvml: Nvml, host: HostFs) -> AsyncIterator[Watched]:
    """When the machine was seen, and events are heard."""
    async with watching(nvml, host) as watched:
        await watched.until(lambda: watched.watch.inventory is not None)
        await watched.until(lambda: not watched.watch.unmonitored)
        yield watched


async def test_a_gpu_falls_off_the_bus_and_comes_back(demo: Bench, open_nvml: OpenNvml) -> None:
    first, other = demo.uuids[:2]
    async with listening(open_nvml(demo), demo.host) as watched:
        demo.state.xid(other, 31)
        demo.state.xid(first, 79)
        demo.state.lose(first)
        await watched.until(lambda: first in watched.lost())
        await watched.until(
            lambda: (
                watched.metric(
                    "xid_events_total", device=other, xid="31", **{"class": "application"}
                )
                == 1
            )
        )
        await trio.sleep(0.3)  # some sessions later
        assert first in watched.lost()
        assert not watched.sick()
        demo.state.recover(first)
        await watched.until(lambda: not watched.lost())
        await watched.until(lambda: not watched.sick())
        demo.state.xid(first, 94)
        await watched.until(lambda: first in watched.sick())
        await watched.until(lambda: not watched.sick())


async def test_an_event_of_a_slice_is_told_of_the_slice(demo: Bench, driver: Nvml) -> None:
    sick = demo.machine.gpus[2].slices[1].uuid
    async with listening(driver, demo.host) as watched:
        demo.state.demand(demo.uuids[0], "reset")  # looked at as soon as anything is heard
        demo.state.xid(sick, 999)
        await watched.until(lambda: sick in watched.sick())
        await watched.until(lambda: "asks for a reset" in watched.sick().get(demo.uuids[0], ""))
        labels = {"device": sick, "xid": "other", "class": "recoverable"}
        assert watched.metric("xid_events_total", **labels) == 1
        await watched.until(lambda: sick not in watched.sick())


async def test_a_gpu_that_hangs_is_sick_alone(demo: Bench, driver: Nvml) -> None:
    hanging, other = demo.uuids[:2]
    async with listening(driver, demo.host) as watched:
        demo.state.hang(hanging, 600)
        await watched.until(lambda: hanging in watched.lost() or hanging in watched.sick())
        demo.state.xid(other, 94)
        await watched.until(lambda: other in watched.sick())
        await watched.until(lambda: other not in watched.sick())
        assert watched.watch.problem is None
        assert watched.metric("nvml_errors_total", call="timeout") >= 1
        reason = watched.lost().get(hanging) or watched.sick()[hanging]
        assert reason.endswith("the driver has not answered for it within 0.4 s")
        demo.state.hang(hanging, 0)
        await watched.until(lambda: not watched.lost() and not watched.sick())


async def test_a_gpu_that_is_slow_delays_no_other(demo: Bench) -> None:
    """Its answers come when they come, and are not missed."""
    slow, other = demo.uuids[:2]
    demo.state.hang(slow, 40)  # each of its calls: together they take longer than any patience
    nvml = SimulatedNvml(demo.machine, demo.state_path, host=demo.host)
    watched = Watched(nvml, demo.host)
    rounds: list[set[str]] = []

    async def probed(readings: Readings) -> None:
        rounds.append(set(readings))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.watch.run, lambda: None, probed)
        await watched.until(lambda: sum(slow in found for found in rounds) >= 2)
        nursery.cancel_scope.cancel()
    nvml.close()
    assert sum(other in found for found in rounds) >= 2 * sum(slow in found for found in rounds)


async def test_a_driver_that_goes_takes_all_and_brings_all_back(
    demo: Bench, open_nvml: OpenNvml
) -> None:
    async with listening(open_nvml(demo), demo.host) as watched:
        everything = {device.uuid for device in devices_of(watched.watch.inventory.machine)}  # type: ignore[union-attr] # it was awaited
        demo.state.unload_driver()
        await watched.until(lambda: watched.sick().keys() == everything)
        await watched.until(lambda: watched.watch.problem is not None)
        demo.state.reload_driver()
        await watched.until(lambda: not watched.sick() and watched.watch.problem is None)
        await watched.until(lambda: not watched.watch.unmonitored)
        demo.state.xid(demo.uuids[1], 48)
        await watched.until(lambda: demo.uuids[1] in watched.sick())


async def test_a_gpu_that_is_not_listed_any_more_is_lost(demo: Bench, driver: Nvml) -> None:
    gone = demo.uuids[0]
    async with listening(driver, demo.host) as watched:
        demo.state.unplug(gone)
        await watched.until(
            lambda: watched.lost() == {gone: "the driver does not list it any more"}
        )
        assert not watched.sick(), "that the indices shift confuses nobody"
        demo.state.unplug(gone, unplugged=False)
        await watched.until(lambda: not watched.lost() and not watched.sick())


async def test_gpus_that_tell_of_no_events_are_named(demo: Bench, driver: Nvml) -> None:
    demo.state.deafen(demo.uuids[1])
    async with watching(driver, demo.host) as watched:
        await watched.until(lambda: set(watched.watch.unmonitored) == {demo.uuids[1]})
        demo.state.xid(demo.uuids[0], 94)
        await watched.until(lambda: demo.uuids[0] in watched.sick())


async def test_calls_are_timed_and_errors_counted(demo: Bench, driver: Nvml) -> None:
    async with listening(driver, demo.host) as watched:
        demo.state.deny("nvmlDeviceGetMemoryInfo_v2")
        await watched.until(lambda: len(watched.lost()) == 3)
        assert watched.metric("nvml_errors_total", call="gpu") >= 3
        for call in ("outline", "gpu", "memory", "processes"):
            assert watched.metric("nvml_seconds_count", call=call) >= 1
        assert watched.metric("nvml_seconds_count", call="events") == 0, "that is waiting"


# -- nodes without a driver


class NoLibrary(SimulatedNvml):
    """No driver is there until `there` says so."""

    there = False

    def outline(self) -> Outline:
        if not self.there:
            raise NoDriver("library not found", remedy="install the NVIDIA driver")
        return super().outline()

    def wait_event(self, timeout_s: float) -> None:
        raise NoDriver("library not found")

    def unmonitored(self) -> Mapping[str, str]:
        return {}


def put_on_bus(host: HostFs, address: str, driver: str | None = None) -> None:
    device = host.pci_devices / address
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030200\n")
    if driver is not None:
        (host.sys / "bus/pci/drivers" / driver).mkdir(parents=True)
        (device / "driver").symlink_to(f"../../drivers/{driver}")


async def test_a_node_without_a_gpu_is_idle_and_notices_one(
    demo: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    host = demo.host
    host.pci_devices.mkdir(parents=True)
    put_on_bus(host, "0000:c1:00.0", driver="vfio-pci")  # a virtual machine's
    nvml = NoLibrary(demo.machine, demo.state_path, host=host)
    async with watching(nvml, host) as watched:
        await watched.until(lambda: watched.watch.idle)
        await trio.sleep(0.2)
        assert watched.watch.problem is None
        assert watched.metric("nvml_errors_total", call="outline") == 0
        put_on_bus(host, "0000:3b:00.0")
        await watched.until(lambda: watched.watch.problem is not None)
        assert not watched.watch.idle
        assert str(watched.watch.problem).startswith("library not found; install the NVIDIA driver")
        assert str(watched.watch.problem).endswith("(on the PCI bus: 0000:3b:00.0)")
        assert not watched.watch.idle
        nvml.there = True
        await watched.until(lambda: watched.watch.inventory is not None)
        assert watched.watch.problem is None
    nvml.close()
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "no NVIDIA GPU on this node",
        "GPU driver unavailable",
        "GPU driver answers again",
    ]


async def test_where_the_bus_is_not_in_view_a_missing_driver_is_a_problem(
    demo: Bench, tmp_path: Path
) -> None:
    host = HostFs(sys=tmp_path / "nowhere")
    nvml = NoLibrary(demo.machine, demo.state_path, host=host)
    async with watching(nvml, host) as watched:
        await watched.until(
            lambda: str(watched.watch.problem).startswith("library not found; install")
        )
    nvml.close()
