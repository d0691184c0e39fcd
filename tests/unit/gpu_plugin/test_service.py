# SPDX-License-Identifier: Apache-2.0
"""The answers of a plugin, over a real gRPC connection."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from agents import unix_grpc
from agents._pb.deviceplugin import v1beta1_pb2 as pb
from agents._pb.deviceplugin.v1beta1_pb2_grpc import add_DevicePluginServicer_to_server
from agents.published import Published
from agents.standin.kubelet.allocations import Allocation
from agents.standin.kubelet.answers import merged
from gpu_plugin import units
from gpu_plugin.identity import Allocations
from gpu_plugin.metrics import Counters
from gpu_plugin.resources import Resource, plan
from gpu_plugin.rpc_boundary import RpcBoundary
from gpu_plugin.service import MOST_STREAMS, DevicePlugin, Streams
from tests.fakes.gpus import gpu, machine, rule
from tests.fakes.registrar import Watch

NAME = "nodeshare/gpu-memory"
A, B = gpu(0).uuid, gpu(1).uuid


def resource(**fields: Any) -> Resource:
    nodes = {A: ("nvidia0", "nvidiactl"), B: ("nvidia1", "nvidiactl")}
    return plan([rule(**fields)], machine(gpu(0), gpu(1)), nodes=nodes).resources[0]


@dataclass
class Served:
    """A plugin on a socket, and a kubelet's connection to it."""

    offered: Published[Resource]
    allocations: Allocations
    registry: CollectorRegistry
    plugin: DevicePlugin
    watch: Watch

    def prefer(self, ids: list[str], size: int, must: list[str] | None = None) -> list[str]:
        asked = pb.ContainerPreferredAllocationRequest(
            available_deviceIDs=ids, must_include_deviceIDs=must or [], allocation_size=size
        )
        request = pb.PreferredAllocationRequest(container_requests=[asked])
        answer = self.watch.plugin.GetPreferredAllocation(request, timeout=10)
        return list(answer.container_responses[0].deviceIDs)

    def allocate(self, *containers: list[str]) -> list[pb.ContainerAllocateResponse]:
        asked = [pb.ContainerAllocateRequest(devices_ids=ids) for ids in containers]
        request = pb.AllocateRequest(container_requests=asked)
        return list(self.watch.plugin.Allocate(request, timeout=10).container_responses)

    def rejections(self, reason: str) -> float | None:
        labels = {"resource": NAME, "reason": reason}
        return self.registry.get_sample_value("nodeshare_gpu_admission_rejections_total", labels)


@pytest.fixture
def served(short_path: Path) -> Iterator[Served]:
    registry = CollectorRegistry()
    counters, streams = Counters(registry), Streams()
    offered = Published(resource())
    allocations = Allocations(short_path / "gpu")
    allocations.prepare()
    server = grpc.server(
        ThreadPoolExecutor(MOST_STREAMS + 2),
        interceptors=[RpcBoundary(NAME, counters)],
        options=[("grpc.max_receive_message_length", unix_grpc.LARGE_RECEIVE_BYTES)],
    )
    plugin = DevicePlugin(offered, allocations, counters, streams)
    add_DevicePluginServicer_to_server(plugin, server)
    unix_grpc.listen(server, short_path / "plugin.sock")
    server.start()
    watch = Watch(short_path / "plugin.sock")
    watch.start()
    yield Served(offered, allocations, registry, plugin, watch)
    watch.close()
    server.stop(0).wait(10)


def test_options_ask_for_the_preferred_call_only(served: Served) -> None:
    assert served.watch.options.get_preferred_allocation_available
    assert not served.watch.options.pre_start_required


def test_the_list_comes_at_once_and_again_only_when_it_differs(served: Served) -> None:
    first = served.watch.next_list()
    assert set(first.values()) == {"Healthy"}
    assert units.count(first) == {A: 32, B: 32}
    now = served.offered.value
    # Another thing that the kubelet is not told, and a new but equal value.
    served.offered.set(replace(now, devices=(replace(now.devices[0], nodes=()), now.devices[1])))
    served.offered.set(resource())
    with pytest.raises(queue.Empty):
        served.watch.next_list(0.3)
    sick = replace(now.devices[0], unhealthy="lost")
    served.offered.set(replace(now, devices=(sick, now.devices[1])))
    second = served.watch.next_list()
    assert {id_.partition("::")[0] for id_, health in second.items() if health == "Unhealthy"} == {
        A
    }
    assert set(second) == set(first)


def test_the_list_of_a_kubelet_that_left_holds_no_thread(served: Served) -> None:
    served.watch.next_list()
    assert served.plugin.streams.open == 1
    served.watch.close()
    deadline = time.monotonic() + 5
    while served.plugin.streams.open and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (served.plugin.streams.open, served.plugin.streams.ended) == (0, 1)


def test_clients_that_only_watch_leave_a_thread_for_the_kubelet(served: Served) -> None:
    served.watch.next_list()
    more = [served.watch.plugin.ListAndWatch(pb.Empty()) for _ in range(MOST_STREAMS - 1)]
    for stream in more:
        assert len(next(stream).devices) == 64
    with pytest.raises(grpc.RpcError) as caught:
        next(served.watch.plugin.ListAndWatch(pb.Empty()))
    assert unix_grpc.status(caught.value)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(served.allocate([f"{A}::0"])) == 1
    for stream in more:
        stream.cancel()


def test_the_list_ends_when_the_plugin_stops(served: Served) -> None:
    served.watch.next_list()
    served.plugin.end_lists()
    assert served.watch.ended.wait(5)


def test_preferred_units_lie_on_one_device(served: Served) -> None:
    available = [f"{A}::{n}" for n in range(10)] + [f"{B}::{n}" for n in range(6)]
    assert served.prefer(available, 5) == [f"{B}::{n}" for n in range(5)]


def test_a_refusal_carries_the_numbers_and_is_counted(served: Served) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        served.prefer([f"{A}::0", f"{B}::0", f"{B}::1"], 3)
    code, text = unix_grpc.status(caught.value)
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert text == (
        f"asked 3 of {NAME}, largest free block 2 on {B} "
        "(3 free on 2 devices, and a request may not span devices)"
    )
    assert served.rejections("no_single_device") == 1


def test_allocate_gives_environment_nodes_and_both_mounts(served: Served) -> None:
    (given,) = served.allocate([f"{B}::7", f"{B}::3"])
    assert given.envs["NVIDIA_VISIBLE_DEVICES"] == B
    assert given.envs["NODESHARE_GPU_UNITS"] == "2"
    assert [(node.host_path, node.container_path, node.permissions) for node in given.devices] == [
        ("/dev/nvidia1", "/dev/nvidia1", "rw"),
        ("/dev/nvidiactl", "/dev/nvidiactl", "rw"),
    ]
    (recorded,) = served.allocations.recorded()
    directory = str(served.allocations.containers / recorded.name)
    assert [(m.container_path, m.host_path, m.read_only) for m in given.mounts] == [
        ("/run/nodeshare/allocations/nodeshare_gpu-memory", directory, True),
        ("/run/nodeshare/gpu", directory, True),
    ]
    assert recorded.ids == {f"{B}::3", f"{B}::7"}


def test_init_and_main_container_with_the_same_units_get_a_directory_each(served: Served) -> None:
    (first,) = served.allocate([f"{A}::0", f"{A}::1"])
    (second,) = served.allocate([f"{A}::1", f"{A}::0"])
    assert first.mounts[0].host_path != second.mounts[0].host_path
    assert len({path.partition(".")[0] for path in served.allocations.names()}) == 1


def test_many_allocates_at_once_have_a_directory_each(served: Served) -> None:
    with ThreadPoolExecutor(8) as kubelet:
        answers = list(kubelet.map(lambda n: served.allocate([f"{A}::{n % 4}"]), range(32)))
    assert len({answer.mounts[0].host_path for (answer,) in answers}) == 32
    assert len(served.allocations.recorded()) == 32


def test_calls_are_timed(served: Served) -> None:
    served.allocate([f"{A}::0"])
    served.prefer([f"{A}::0"], 1)
    for call in ("Allocate", "GetPreferredAllocation"):
        labels = {"resource": NAME, "call": call}
        assert served.registry.get_sample_value("nodeshare_gpu_call_seconds_count", labels) == 1


def test_of_two_resources_in_one_container_the_kubelet_drops_no_node_and_no_own_name(
    served: Served,
) -> None:
    """In `env` mode the second's NVIDIA_VISIBLE_DEVICES is the one thing that is lost."""
    (first,) = served.allocate([f"{A}::0"])
    served.offered.set(resource(name="example.org/other"))
    (second,) = served.allocate([f"{B}::0", f"{B}::1"])
    given = merged(
        Allocation("uid", "main", name, {}, answer.SerializeToString())
        for name, answer in ((NAME, first), ("example.org/other", second))
    )
    assert set(given.devices) == {"/dev/nvidia0", "/dev/nvidia1", "/dev/nvidiactl"}
    assert given.env["NVIDIA_VISIBLE_DEVICES"] == A
    assert given.env["NODESHARE_RESOURCE_GPU_MEMORY_DEVICES"] == A
    assert given.env["NODESHARE_RESOURCE_OTHER_DEVICES"] == B
    assert given.env["NODESHARE_RESOURCE_OTHER_UNITS"] == "2"
    assert set(given.volumes) == {
        "/run/nodeshare/gpu",
        "/run/nodeshare/allocations/nodeshare_gpu-memory",
        "/run/nodeshare/allocations/example.org_other",
    }
    assert any("NVIDIA_VISIBLE_DEVICES" in text for _, text in given.ignored)


def test_a_refused_allocate_leaves_nothing_behind(served: Served) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        served.allocate([f"{A}::0"], [f"{A}::1", f"{B}::1"])
    assert "lie on 2 devices" in unix_grpc.status(caught.value)[1]
    assert served.allocations.names() == set()
    assert served.rejections("several_devices") == 1


@pytest.mark.loud
def test_a_full_disk_is_told_to_the_user_and_a_bug_is_not(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    served.allocations.records.chmod(0o700)
    for path in (served.allocations.records, served.allocations.containers):
        path.rmdir()
        path.touch()
    with pytest.raises(grpc.RpcError) as caught:
        served.allocate([f"{A}::0"])
    code, text = unix_grpc.status(caught.value)
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "look whether node.state_dir" in text
    assert served.rejections("state") == 1

    def broken(*_: object) -> None:
        raise ValueError("secret")

    monkeypatch.setattr(Allocations, "make", broken)
    with pytest.raises(grpc.RpcError) as caught:
        served.allocate([f"{A}::0"])
    code, text = unix_grpc.status(caught.value)
    assert code is grpc.StatusCode.INTERNAL
    assert "secret" not in text
    record = caplog.records[-1]
    assert (record.__dict__["resource"], record.__dict__["call"]) == (NAME, "Allocate")
    assert "secret" in record.getMessage() + str(record.__dict__)


def test_sixty_thousand_units_in_one_request(served: Served) -> None:
    many = plan([rule(chunk="1MiB")], machine(gpu(0, total=60_000 << 20))).resources[0]
    served.offered.set(many)
    ids = list(units.unit_ids(A, 60_000))
    assert len(served.prefer(ids, 60_000)) == 60_000
    (given,) = served.allocate(ids)
    assert given.envs["NODESHARE_GPU_UNITS"] == "60000"
    (recorded,) = served.allocations.recorded()
    assert (served.allocations.records / f"{recorded.name}.json").stat().st_size < 1000


def test_pre_start_is_answered_although_not_asked_for(served: Served) -> None:
    request = pb.PreStartContainerRequest(devices_ids=[f"{A}::0"])
    assert served.watch.plugin.PreStartContainer(request, timeout=10) is not None
