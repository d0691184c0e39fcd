# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from agents.logs import get_logger
from gpu_plugin.accounting import GpuContainer
from gpu_plugin.devices import MemoryLimits
from gpu_plugin.driver_limits import DriverLimits, Timing
from gpu_plugin.driver_record import LimitRecord
from gpu_plugin.nvml import NotPermitted
from gpu_plugin.simulated.description import load_machine
from gpu_plugin.simulated.nvml import SimulatedNvml
from gpu_plugin.verdicts import Limits
from tests.fakes.gpu_scans import FIRST, SECOND, SLICE, container, grant, scan
from tests.fakes.nvml.machines import Bench, lay_out

GIB = 1 << 30
PLACES = ("ada", "bob")


class CountingNvml(SimulatedNvml):
    """Counts questions, and may round as a real driver does."""

    asked = 0
    rounding = 1
    held: int | None = None
    permitted = True

    def set_memory_limits(self, uuid: str, cgroup: str, limits: MemoryLimits) -> None:
        if not self.permitted:
            raise NotPermitted("nvmlDeviceSetMemoryLimits_v1: not permitted")
        super().set_memory_limits(uuid, cgroup, limits)

    def memory_limits(self, uuid: str, cgroup: str) -> MemoryLimits:
        self.asked += 1
        found = super().memory_limits(uuid, cgroup)
        hard = found.hard
        if hard is not None:
            hard += -(hard % self.rounding) if self.rounding > 0 else -self.rounding
        return MemoryLimits(found.soft, hard, found.used if self.held is None else self.held)


class Node:
    """Containers ada and bob, in cgroups of a recorded tree."""

    def __init__(self, directory: Path, *, capable: bool = True) -> None:
        machine = replace(load_machine("demo"), memory_limits=capable)
        self.bench: Bench = lay_out(machine, directory)
        self.root = self.bench.host.cgroup
        (self.root / "cgroup.controllers").write_text("memory\n")
        for name in PLACES:
            (self.root / f"kubepods/{name}").mkdir(parents=True)
            (self.root / f"kubepods/{name}/cgroup.events").write_text("populated 1\nfrozen 0\n")
        self.nvml = CountingNvml(machine, self.bench.state_path, host=self.bench.host)
        self.record = LimitRecord(directory / "run/limits")
        self.driver = self.agent()

    def agent(self, verify_s: float = 0.02) -> DriverLimits:
        """What an agent that has just started makes."""
        timing, log = Timing(verify_s=verify_s), get_logger(agent="gpu")
        return DriverLimits(self.nvml, self.bench.host, self.record, timing, log=log)

    def want(self, *found: GpuContainer, session: int = 1) -> None:
        limits = {
            one.key: {of.device: Limits(4 * GIB, 8 * GIB, 3 * GIB, "the test") for of in one.grants}
            for one in found
        }
        self.driver.want(scan(*found), limits, session)

    def set(self, name: str, device: str = FIRST) -> MemoryLimits:
        found = SimulatedNvml.memory_limits(self.nvml, device, f"{self.root}/kubepods/{name}")
        return replace(found, used=None)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.driver.run)
            yield
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not condition():
            await trio.sleep(0.005)


def pod(name: str, *devices: str) -> GpuContainer:
    return container(name, *(grant(name, device=device) for device in devices or (FIRST,)))


WANTED = MemoryLimits(soft=3 * GIB, hard=8 * GIB)
NONE = MemoryLimits(None, None)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.mark.loud
async def test_limits_are_set_and_set_again_when_they_are_lost(node: Node) -> None:
    ada = pod("ada", FIRST, SECOND)
    async with node.running():
        node.want(ada)
        await until(lambda: node.driver.in_force == {(ada.key, FIRST), (ada.key, SECOND)})
        assert node.set("ada") == node.set("ada", SECOND) == WANTED
        node.bench.state.limit(FIRST, f"{node.root}/kubepods/ada", soft=None, hard=None)
        await until(lambda: node.set("ada") == WANTED)
        assert node.set("bob") == NONE


@pytest.mark.parametrize(
    ("rounding", "hard", "held"),
    [
        pytest.param(1 << 29, True, None, id="rounded down"),
        pytest.param(3 << 30, False, None, id="rounded to something else"),
        pytest.param(-(2 << 20), True, 8 * GIB + 1, id="rounded up by a page"),
        pytest.param(-(1 << 28), False, None, id="rounded up by much"),
        pytest.param(1, False, 9 * GIB, id="memory that it took before"),
        pytest.param(1, True, 8 * GIB, id="at its limit"),
    ],
)
async def test_what_is_read_back_counts(
    node: Node, rounding: int, hard: bool, held: int | None
) -> None:
    node.nvml.rounding, node.nvml.held = rounding, held
    ada = pod("ada")
    async with node.running():
        node.want(ada)
        await until(lambda: node.nvml.asked > 3)
    assert node.driver.in_force == ({(ada.key, FIRST)} if hard else frozenset())
    assert ("not in force" in node.driver.notes.get((ada.key, FIRST), "")) != hard


async def test_a_driver_that_cannot_is_asked_once_in_a_session(tmp_path: Path) -> None:
    node = Node(tmp_path, capable=False)
    async with node.running():
        node.want(pod("ada"), pod("bob"))
        await until(lambda: FIRST in node.driver.unsupported)
        await trio.sleep(0.1)
        assert node.nvml.asked == 1
        node.want(pod("ada"), session=2)
        await until(lambda: node.nvml.asked == 2)
    assert node.driver.in_force == frozenset()


async def test_a_slice_is_no_reason_against_the_other_devices(node: Node) -> None:
    ada = pod("ada", SLICE, FIRST)
    async with node.running():
        node.want(ada)
        await until(lambda: node.driver.in_force == {(ada.key, FIRST)})
    assert [*node.driver.unsupported] == [SLICE]


async def test_who_is_not_permitted_says_so_and_tries_again(node: Node) -> None:
    node.nvml.permitted = False
    ada = pod("ada")
    async with node.running():
        node.want(ada)
        await until(lambda: "not permitted" in node.driver.notes.get((ada.key, FIRST), ""))
        assert node.driver.in_force == frozenset()
        node.nvml.permitted = True
        await until(lambda: node.driver.in_force == {(ada.key, FIRST)})
    assert node.driver.notes == {}


async def test_a_node_without_pure_cgroup_v2_is_told_of(node: Node) -> None:
    (node.root / "cgroup.controllers").unlink()
    async with node.running():
        node.want(pod("ada"))
        await until(lambda: "v2" in node.driver.unsupported.get(FIRST, ""))
    assert node.nvml.asked == 0


async def test_what_a_container_was_guaranteed_goes_with_it(node: Node) -> None:
    ada, bob = pod("ada"), pod("bob")
    async with node.running():
        node.want(ada, bob)
        await until(lambda: len(node.driver.in_force) == 2)
        node.want(bob)
        await until(lambda: node.set("ada") == NONE)
    assert node.set("bob") == WANTED
    assert node.driver.in_force == {(bob.key, FIRST)}


async def test_it_goes_as_soon_as_the_last_process_has_ended(tmp_path: Path) -> None:
    """Before anybody looks again, because the runtime removes the cgroup next."""
    node = Node(tmp_path)
    node.driver = node.agent(verify_s=60.0)
    ada, bob = pod("ada"), pod("bob")
    async with node.running():
        node.want(ada, bob)
        await until(lambda: len(node.driver.in_force) == 2)
        (node.root / "kubepods/ada/cgroup.events").write_text("populated 0\nfrozen 0\n")
        await until(lambda: node.set("ada") == NONE)
        assert node.set("bob") == WANTED
        await until(lambda: node.driver.in_force == {(bob.key, FIRST)})


async def test_nothing_is_set_for_who_has_ended(node: Node) -> None:
    """A scan that was made before may still tell of it."""
    (node.root / "kubepods/ada/cgroup.events").write_text("populated 0\nfrozen 0\n")
    ada = pod("ada")
    async with node.running():
        node.want(ada)
        await until(lambda: "has ended" in node.driver.notes.get((ada.key, FIRST), ""))
    assert node.set("ada") == NONE
    assert node.record.read() == frozenset()


async def test_what_is_set_and_does_not_hold_goes_as_well(node: Node) -> None:
    node.nvml.held = 9 * GIB
    ada = pod("ada")
    async with node.running():
        node.want(ada)
        await until(lambda: (ada.key, FIRST) in node.driver.notes)
        assert node.set("ada") == WANTED
        node.want()
        await until(lambda: node.set("ada") == NONE)


async def test_an_agent_takes_away_what_another_set_and_nobody_wants_now(node: Node) -> None:
    ada, bob = pod("ada"), pod("bob", FIRST, SECOND)
    async with node.running():
        node.want(ada, bob)
        await until(lambda: len(node.driver.in_force) == 3)
    for number, torn in enumerate((b'["GPU-', b"", b"5", b"[1, 2]", b"\xff")):
        (node.root.parent / f"run/limits/torn{number}").write_bytes(torn)
    node.driver = node.agent()
    async with node.running():
        await until(lambda: node.driver.has_set)
        await trio.sleep(0.05)
        assert node.set("ada") == WANTED, "nobody said anything yet"
        scanned = scan(ada, bob)
        devices = {uuid: use for uuid, use in scanned.devices.items() if uuid != SECOND}
        node.driver.want(replace(scanned, devices=devices), {}, 1)
        await until(lambda: node.set("ada") == node.set("bob") == NONE)
        assert node.set("bob", SECOND) == WANTED, "of this device nothing is known now"
        node.driver.want(scan(bob), {}, 1)
        await until(lambda: not node.driver.has_set)
    assert node.set("bob", SECOND) == NONE
    assert node.record.read() == frozenset()


async def test_a_limit_that_changes_is_not_called_lost(node: Node) -> None:
    """Which would be a warning, and fail here."""
    ada = pod("ada")
    async with node.running():
        node.want(ada)
        await until(lambda: len(node.driver.in_force) == 1)
        limits = {ada.key: {FIRST: Limits(4 * GIB, 6 * GIB, 4 * GIB, "the test")}}
        node.driver.want(scan(ada), limits, 1)
        await until(lambda: node.set("ada") == MemoryLimits(4 * GIB, 6 * GIB))


async def test_an_agent_in_a_cgroup_namespace_of_its_own_says_so(node: Node) -> None:
    ada = replace(pod("ada"), cgroup="/../../kubepods/ada")
    async with node.running():
        node.want(ada)
        await until(lambda: "namespace of its own" in node.driver.unsupported.get(FIRST, ""))
    assert node.nvml.asked == 0


async def test_a_record_that_cannot_be_written_is_no_limit(node: Node) -> None:
    node.root.parent.joinpath("run").write_text("a file in the place of the directory")
    ada = pod("ada")
    async with node.running():
        node.want(ada)
        await until(lambda: "run/limits" in node.driver.notes.get((ada.key, FIRST), ""))
    assert node.set("ada") == NONE


async def test_a_cgroup_that_is_gone_keeps_nobody_from_his_limits(node: Node) -> None:
    ada, bob = pod("ada"), pod("bob")
    (node.root / "kubepods/ada/cgroup.events").unlink()
    (node.root / "kubepods/ada").rmdir()
    async with node.running():
        node.want(ada, bob)
        await until(lambda: node.driver.in_force == {(bob.key, FIRST)})
        await until(lambda: (ada.key, FIRST) in node.driver.notes)
        node.want(bob)
        await until(lambda: node.driver.notes == {})


async def test_a_device_that_does_not_answer_keeps_what_it_has(node: Node) -> None:
    ada = pod("ada")
    async with node.running():
        node.want(ada)
        await until(lambda: len(node.driver.in_force) == 1)
        node.driver.want(replace(scan(ada), devices={}), {}, 1)
        await trio.sleep(0.1)
        assert node.set("ada") == WANTED
