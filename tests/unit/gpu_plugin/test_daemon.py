# SPDX-License-Identifier: Apache-2.0
"""The running agent on a simulated machine, with a kubelet's sockets."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
import trio
from prometheus_client import CollectorRegistry

from agents._pb.deviceplugin import v1beta1_pb2 as pb
from agents.agent import AgentContext, Readiness, Status
from agents.config import NodeConfig, Section
from agents.containers import Container
from agents.errors import Unavailable
from agents.hostfs import HostFs
from agents.logs import get_logger
from agents.namespaces import Namespaces
from agents.podresources import DeviceIds, PodDevices
from agents.published import Published
from gpu_plugin import units
from gpu_plugin.accounting_watch import Timing as AccountingTiming
from gpu_plugin.config import GpuPluginConfig
from gpu_plugin.daemon import GpuAgent, Timing, run
from gpu_plugin.devices import Outline
from gpu_plugin.driver_watch import Timing as DriverTiming
from gpu_plugin.holders_watch import Timing as HoldersTiming
from gpu_plugin.nvml import Nvml
from gpu_plugin.simulated.description import load_machine
from gpu_plugin.simulated.nvml import SimulatedNvml
from gpu_plugin.simulated.state import SimulatedState
from tests.fakes.gpus import rule
from tests.fakes.registrar import LIMIT_S, Registrar, Watch

SHARED, SMALL = "nodeshare/gpu-memory", "nodeshare/mig-1g.10gb"
RULES = (
    rule(SHARED, select={"mig": "none"}),
    rule(SMALL, select={"mig": ["1g.10gb"]}, exclusive=True),
)
FAST = Timing(
    driver=DriverTiming(
        usage_s=0.02,
        idle_s=0.02,
        pause_s=0.01,
        inventory_s=0.02,
        reopen_s=0.02,
        longest_reopen_s=0.1,
    ),
    accounting=AccountingTiming(held_s=0.02),
    holders=HoldersTiming(look_s=0.02, cleanup_s=0.05, cleanup_grace_s=0.1),
)
#: For a driver that hangs. Elsewhere a busy machine would make devices unhealthy for a moment.
IMPATIENT = replace(FAST, driver=replace(FAST.driver, limit_s=0.3))

pytestmark = pytest.mark.loud  # a simulated machine is logged as a warning


class FakePodResources:
    """Says what a test put into `pods`; None: the socket does not answer."""

    def __init__(self) -> None:
        self.pods: tuple[PodDevices, ...] | None = ()

    def list(self) -> tuple[PodDevices, ...]:
        if self.pods is None:
            raise Unavailable("podresources does not answer")
        return self.pods

    def allocatable(self) -> DeviceIds:
        raise NotImplementedError


class NoRuntime:
    """Does not answer."""

    def list(self) -> tuple[Container, ...]:
        raise Unavailable("no runtime")


class HangingNvml(SimulatedNvml):
    """Its calls come back only when `answers` is set."""

    answers = threading.Event()

    def outline(self) -> Outline:
        self.answers.wait(LIMIT_S)
        return super().outline()


class Node:
    """A machine with an agent; everything a test may turn."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.kubelet = Registrar(directory / "device-plugins")
        self.machine = load_machine("demo")
        self.state = SimulatedState(directory / "gpu-state")
        self.podresources = FakePodResources()
        self.status = Published[Status]({})
        self.annotations = Published[Mapping[str, str | None]]({})
        self.readiness = Readiness()
        self.registry = CollectorRegistry()
        (directory / "proc").mkdir()

    @property
    def uuids(self) -> list[str]:
        return [gpu.uuid for gpu in self.machine.gpus]

    @asynccontextmanager
    async def agent(
        self, *rules: Any, nvml: Nvml | None = None, timing: Timing = FAST
    ) -> AsyncIterator[None]:
        section = GpuPluginConfig(resources=rules or RULES, simulate="demo")
        nvml = nvml or SimulatedNvml(self.machine, self.state.path)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                agent = GpuAgent(
                    self.context(section), section, nvml, self.podresources, NoRuntime(), timing
                )
                nursery.start_soon(agent.run)
                yield
                nursery.cancel_scope.cancel()

    def context(self, section: GpuPluginConfig) -> AgentContext:
        _, changes = trio.open_memory_channel[Section](1)
        return AgentContext(
            node=NodeConfig(
                state_dir=self.directory / "state",
                run_dir=self.directory / "run",
                kubelet_dir=self.directory,
            ),
            section=section,
            changes=changes,
            host=HostFs(proc=self.directory / "proc"),
            log=get_logger(),
            registry=self.registry,
            readiness=self.readiness,
            status=self.status,
            namespaces=cast("Namespaces", None),
            annotations=self.annotations,
        )

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"nodeshare_gpu_{name}", labels)

    async def until_ready(self) -> None:
        await until(lambda: self.readiness.reason is None)

    async def watch(self, resource: str) -> Watch:
        """The next registration of this resource."""
        while True:
            watch = await trio.to_thread.run_sync(self.kubelet.next)
            if self.kubelet.requests[-1].resource_name == resource or resource == "":
                return watch


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(LIMIT_S):
        while not condition():
            await trio.sleep(0.01)


async def listed(watch: Watch, health: str = "Healthy") -> dict[str, int]:
    """Units by device of the next list."""
    found = await trio.to_thread.run_sync(watch.next_list)
    return units.count(id_ for id_, state in found.items() if state == health)


@pytest.fixture
def node(short_path: Path) -> Iterator[Node]:
    made = Node(short_path)
    made.kubelet.start()
    yield made
    made.kubelet.stop()


async def test_offers_each_resource_and_is_ready_when_the_kubelet_knows_them(node: Node) -> None:
    async with node.agent():
        lists = [await listed(await node.watch("")) for _ in RULES]
        slices = [each.uuid for each in node.machine.gpus[2].slices]
        assert {uuid: count for found in lists for uuid, count in found.items()} == {
            node.uuids[0]: 31,
            node.uuids[1]: 31,
            slices[2]: 1,
            slices[3]: 1,
        }
        await node.until_ready()
        document = node.status.value
        assert document["simulated"] is True
        assert [device["units"] for device in document["devices"]] == [31, 31, 0, 0, 1, 1]
        assert [resource["registered"] for resource in document["resources"]] == [True, True]
        assert node.metric("units", resource=SHARED, device=node.uuids[0]) == 31
        assert node.metric("simulated") == 1


async def test_who_holds_what_and_how_much_is_used(node: Node) -> None:
    node.podresources.pods = (
        PodDevices("ada", "hub", {"main": {SHARED: (f"{node.uuids[1]}::4",)}}),
    )
    async with node.agent():
        node.state.hold(node.uuids[1], os.getpid(), 5 << 30)
        await until(
            lambda: any(d["memory_used"] == 5 << 30 for d in node.status.value.get("devices", ()))
        )
        await until(lambda: node.status.value["devices"][1]["units_allocated"] == 1)
        device = node.status.value["devices"][1]
        assert (device["uuid"], device["processes"]) == (node.uuids[1], 1)
        assert device["holders"] == (
            {
                "namespace": "hub",
                "pod": "ada",
                "container": "main",
                "resource": SHARED,
                "units": 1,
            },
        )
        node.podresources.pods = None
        await until(lambda: node.status.value["devices"][1]["units_allocated"] is None)
        assert node.readiness.reason is None or "no kubelet" not in node.readiness.reason


async def test_the_node_object_is_to_say_the_largest_free_blocks(node: Node) -> None:
    def wanted(*blocks: int) -> bool:
        text = node.annotations.value.get("nodeshare/largest-free-block")
        return [*json.loads(text or "{}").values()] == [*blocks]

    async with node.agent():
        await until(lambda: wanted(31, 1))
        node.podresources.pods = tuple(
            PodDevices(f"p{index}", "hub", {"main": {SHARED: tuple(units.unit_ids(uuid, 20))}})
            for index, uuid in enumerate(node.uuids[:2])
        )
        await until(lambda: wanted(11, 1))


async def test_without_resources_it_is_ready_and_idle(node: Node) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, node.context(GpuPluginConfig()))
        await node.until_ready()
        assert not (node.directory / "state").exists()
        nursery.cancel_scope.cancel()


async def test_without_a_driver_nothing_is_offered_until_it_comes(node: Node) -> None:
    node.state.unload_driver()
    async with node.agent():
        await until(lambda: "gpu_plugin.simulate" in (node.readiness.reason or ""))
        assert not node.kubelet.requests
        node.state.reload_driver()
        await node.watch("")
        await node.until_ready()


async def test_a_lost_gpu_is_unhealthy_alone_and_comes_back(node: Node) -> None:
    async with node.agent(RULES[0]):
        watch = await node.watch(SHARED)
        assert await listed(watch) == {node.uuids[0]: 31, node.uuids[1]: 31}
        node.state.lose(node.uuids[0])
        assert await listed(watch) == {node.uuids[1]: 31}
        await until(lambda: node.metric("device_healthy", device=node.uuids[0]) == 0)
        await until(lambda: any("lost" in text for text in node.status.value["problems"]))
        node.state.recover(node.uuids[0])
        assert await listed(watch) == {node.uuids[0]: 31, node.uuids[1]: 31}


async def test_a_removed_slice_stays_listed_while_a_pod_holds_it(node: Node) -> None:
    held = node.machine.gpus[2].slices[2].uuid
    node.podresources.pods = (PodDevices("ada", "hub", {"main": {SMALL: (f"{held}::0",)}}),)
    async with node.agent(RULES[1]):
        watch = await node.watch(SMALL)
        assert len(await listed(watch)) == 2
        node.state.remove(held)
        assert await listed(watch, "Unhealthy") == {held: 1}
        node.podresources.pods = ()
        assert held not in await listed(watch)
        await until(lambda: held not in [d["uuid"] for d in node.status.value["devices"]])


async def test_a_count_leaves_a_slice_to_the_resource_whose_pods_hold_it(node: Node) -> None:
    slices = [each.uuid for each in node.machine.gpus[2].slices]
    name = "nodeshare/shared"
    node.podresources.pods = (PodDevices("ada", "hub", {"main": {name: (f"{slices[0]}::0",)}}),)
    rules = (
        rule("nodeshare/own", select={"mig": "any", "count": 1}, exclusive=True),
        rule(name, select={"mig": "any"}),
    )
    async with node.agent(*rules):
        await until(lambda: len(node.status.value.get("devices", ())) == 6)
        served = {d["uuid"]: d["resource"] for d in node.status.value["devices"][2:]}
        assert served == dict(zip(slices, [name, "nodeshare/own", name, name], strict=True))


async def test_a_hanging_driver_stops_neither_the_kubelet_nor_a_scrape(node: Node) -> None:
    nvml = HangingNvml(node.machine, node.state.path)
    nvml.answers = threading.Event()
    nvml.answers.set()
    async with node.agent(RULES[0], nvml=nvml, timing=IMPATIENT):
        watch = await node.watch(SHARED)
        await node.until_ready()
        nvml.answers.clear()
        await until(lambda: "has not answered" in (node.readiness.reason or ""))
        asked = pb.ContainerAllocateRequest(devices_ids=[f"{node.uuids[0]}::0"])
        request = pb.AllocateRequest(container_requests=[asked])
        answer = await trio.to_thread.run_sync(
            lambda: watch.plugin.Allocate(request, timeout=LIMIT_S)
        )
        assert answer.container_responses[0].envs["NVIDIA_VISIBLE_DEVICES"] == node.uuids[0]
        assert node.metric("units", resource=SHARED, device=node.uuids[0]) == 31
        nvml.answers.set()
        await node.until_ready()


async def test_back_after_a_kubelet_restart_and_a_restart_of_the_agent(node: Node) -> None:
    async with node.agent(RULES[0]):
        before = await listed(await node.watch(SHARED))
        await node.until_ready()
        await trio.to_thread.run_sync(node.kubelet.stop)
        node.kubelet.start()
        second = await node.watch(SHARED)
        assert await listed(second) == before
        await node.until_ready()
    assert await trio.to_thread.run_sync(second.ended.wait, LIMIT_S)
    again = Node.__new__(Node)
    again.__dict__.update(node.__dict__, registry=CollectorRegistry(), readiness=Readiness())
    async with again.agent(RULES[0]):
        assert len(await listed(await again.watch(SHARED))) == 2
        await again.until_ready()


async def test_allocations_are_cleaned_up_when_nobody_holds_them(node: Node) -> None:
    containers = node.directory / "state/gpu/containers"
    async with node.agent(RULES[0]):
        watch = await node.watch(SHARED)
        await listed(watch)
        ids = (f"{node.uuids[0]}::0", f"{node.uuids[0]}::1")
        node.podresources.pods = (PodDevices("ada", "hub", {"main": {SHARED: ids}}),)
        request = pb.AllocateRequest(
            container_requests=[pb.ContainerAllocateRequest(devices_ids=ids)]
        )
        await trio.to_thread.run_sync(lambda: watch.plugin.Allocate(request, timeout=5))
        await trio.sleep(0.5)
        assert len(list(containers.iterdir())) == 1
        node.podresources.pods = None
        await trio.sleep(0.3)
        assert len(list(containers.iterdir())) == 1
        node.podresources.pods = ()
        await until(lambda: not list(containers.iterdir()))


async def test_a_clean_up_that_cannot_be_harms_nothing_else(node: Node) -> None:
    """Somebody took our directories away, and the agent looks there before the next pod comes."""
    async with node.agent(RULES[0]):
        watch = await node.watch(SHARED)
        await listed(watch)
        shutil.rmtree(node.directory / "state/gpu/containers")
        await trio.sleep(0.5)
        request = pb.AllocateRequest(
            container_requests=[pb.ContainerAllocateRequest(devices_ids=[f"{node.uuids[0]}::0"])]
        )
        await trio.to_thread.run_sync(lambda: watch.plugin.Allocate(request, timeout=5))
        assert len(list((node.directory / "state/gpu/containers").iterdir())) == 1


async def test_a_block_of_one_class_is_taken_off_the_others(node: Node) -> None:
    classes = rule("nodeshare/gpu", select={"indices": [0]}, blocks={"8g": "8GiB", "20g": "20GiB"})
    async with node.agent(classes):
        watches = [await node.watch("") for _ in range(2)]
        blocks = [(await listed(watch))[node.uuids[0]] for watch in watches]
        assert sorted(blocks) == [1, 3]
        eight, twenty = watches if blocks[0] == 3 else reversed(watches)
        request = pb.AllocateRequest(
            container_requests=[pb.ContainerAllocateRequest(devices_ids=[f"{node.uuids[0]}::0"])]
        )
        await trio.to_thread.run_sync(lambda: twenty.plugin.Allocate(request, timeout=5))
        assert await listed(eight) == {node.uuids[0]: 1}
        name = "nodeshare/gpu-20g"
        await until(lambda: node.metric("largest_free_block_units", resource=name) == 0)
        of_eight = {"resource": "nodeshare/gpu-8g", "device": node.uuids[0]}
        await until(lambda: node.metric("units_withheld", **of_eight) == 2)


async def test_a_count_leaves_a_slice_to_the_size_class_whose_pods_hold_it(node: Node) -> None:
    slices = [each.uuid for each in node.machine.gpus[2].slices]
    name = "nodeshare/shared-4g"
    node.podresources.pods = (PodDevices("ada", "hub", {"main": {name: (f"{slices[0]}::0",)}}),)
    rules = (
        rule("nodeshare/own", select={"mig": "any", "count": 1}, exclusive=True),
        rule("nodeshare/shared", select={"mig": "any"}, blocks={"4g": "4GiB"}),
    )
    async with node.agent(*rules):
        await until(lambda: len(node.status.value.get("devices", ())) == 6)
        served = [device["resource"] for device in node.status.value["devices"][2:]]
        assert served == [name, "nodeshare/own", name, name]
        await node.until_ready()
        assert {device["health"] for device in node.status.value["devices"]} == {"healthy"}


async def test_without_podresources_no_block_is_given_out(node: Node) -> None:
    node.podresources.pods = None
    classes = rule("nodeshare/gpu", select={"indices": [0]}, blocks={"8g": "8GiB"})
    async with node.agent(classes):
        watch = await node.watch("")
        assert await listed(watch) == {}
        node.podresources.pods = ()
        assert await listed(watch) == {node.uuids[0]: 3}


async def test_a_refused_pod_is_counted(node: Node) -> None:
    async with node.agent(RULES[0]):
        watch = await node.watch(SHARED)
        asked = pb.ContainerPreferredAllocationRequest(
            available_deviceIDs=[f"{uuid}::{n}" for uuid in node.uuids[:2] for n in range(15)],
            allocation_size=20,
        )
        request = pb.PreferredAllocationRequest(container_requests=[asked])
        with pytest.raises(grpc.RpcError, match="asked 20 of nodeshare/gpu-memory"):
            await trio.to_thread.run_sync(
                lambda: watch.plugin.GetPreferredAllocation(request, timeout=5)
            )
    reason = {"resource": SHARED, "reason": "no_single_device"}
    assert node.metric("admission_rejections_total", **reason) == 1
