# SPDX-License-Identifier: Apache-2.0
"""The pod resources socket, read with the generated client: what is on the wire."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from agents import unix_grpc
from agents._pb.podresources import v1_pb2, v1_pb2_grpc
from agents.standin.kubelet import Behaviour
from agents.standin.kubelet.podresources_server import RateLimit
from tests.fakes.kubelet_bench import RESOURCE, Bench, pod
from tests.fakes.plugin import UNHEALTHY, device, devices


@pytest.fixture
def channel(bench: Bench) -> Iterator[grpc.Channel]:
    with unix_grpc.channel(bench.directory / "pod-resources/kubelet.sock") as channel:
        yield channel


@pytest.fixture
def lister(channel: grpc.Channel) -> v1_pb2_grpc.PodResourcesListerStub:
    return v1_pb2_grpc.PodResourcesListerStub(channel)


def listed(lister: v1_pb2_grpc.PodResourcesListerStub) -> list[v1_pb2.PodResources]:
    request = v1_pb2.ListPodResourcesRequest()
    return list(lister.List(request, timeout=5, wait_for_ready=True).pod_resources)


def test_one_entry_for_each_id_without_topology(
    bench: Bench, lister: v1_pb2_grpc.PodResourcesListerStub
) -> None:
    kubelet = bench.start()
    bench.plugin(listed=devices(4))
    status = kubelet.admit(pod(count=3))
    (found,) = listed(lister)
    assert (found.name, found.namespace) == ("a", "default")
    entries = found.containers[0].devices
    assert sorted(id_ for entry in entries for id_ in entry.device_ids) == list(
        status.containers[0].devices[RESOURCE]
    )
    assert all(len(entry.device_ids) == 1 for entry in entries)
    assert not any(entry.HasField("topology") for entry in entries)


def test_an_id_near_two_numa_nodes_is_named_twice(
    bench: Bench, lister: v1_pb2_grpc.PodResourcesListerStub
) -> None:
    kubelet = bench.start()
    bench.plugin(listed=[device("d0", numa=[0, 1])])
    kubelet.admit(pod())
    entries = listed(lister)[0].containers[0].devices
    assert sorted(entry.topology.nodes[0].ID for entry in entries) == [0, 1]
    assert [list(entry.device_ids) for entry in entries] == [["d0"], ["d0"]]


def test_pods_without_devices_are_listed_and_ended_or_rejected_ones_are_not(
    bench: Bench, lister: v1_pb2_grpc.PodResourcesListerStub
) -> None:
    kubelet = bench.start()
    kubelet.admit(pod("plain", resources={}))
    kubelet.admit(pod("rejected"))
    kubelet.create(pod("waits"))
    kubelet.admit(pod("ended", resources={}))
    ended = kubelet.pod("default/ended").containers[0].id
    assert ended is not None
    bench.runtime.exit(ended, 0)
    bench.until(lambda: kubelet.pod("default/ended").phase.value == "Succeeded")
    (found,) = listed(lister)
    assert found.name == "plain"
    assert [container.name for container in found.containers] == ["main"]
    assert list(found.containers[0].devices) == []
    kubelet.delete("default/plain")
    assert listed(lister) == []


def test_allocatable_leaves_unhealthy_ids_out_but_list_still_names_them(
    bench: Bench, lister: v1_pb2_grpc.PodResourcesListerStub
) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(2))
    kubelet.admit(pod(count=2))
    bench.send(plugin, [device("d0"), device("d1", UNHEALTHY)])
    answer = lister.GetAllocatableResources(v1_pb2.AllocatableResourcesRequest(), timeout=5)
    assert [list(entry.device_ids) for entry in answer.devices] == [["d0"]]
    assert len(listed(lister)[0].containers[0].devices) == 2


def test_get(bench: Bench, lister: v1_pb2_grpc.PodResourcesListerStub) -> None:
    kubelet = bench.start()
    kubelet.admit(pod(resources={}))
    request = v1_pb2.GetPodResourcesRequest(pod_name="a", pod_namespace="default")
    assert lister.Get(request, timeout=5).pod_resources.name == "a"
    with pytest.raises(grpc.RpcError, match="pod b in namespace default not found"):
        lister.Get(v1_pb2.GetPodResourcesRequest(pod_name="b", pod_namespace="default"), timeout=5)


def test_allocations_are_known_before_the_plugin_is_back(
    bench: Bench, lister: v1_pb2_grpc.PodResourcesListerStub
) -> None:
    kubelet = bench.start()
    bench.plugin(listed=[device("d0", numa=[1])])
    kubelet.admit(pod())
    kubelet.restart()
    (entry,) = listed(lister)[0].containers[0].devices
    assert (list(entry.device_ids), entry.topology.nodes[0].ID) == (["d0"], 1)


def test_too_many_calls_are_rejected(
    bench: Bench, lister: v1_pb2_grpc.PodResourcesListerStub
) -> None:
    bench.start(podresources_per_s=0.001, podresources_burst=3)
    for _ in range(3):
        listed(lister)
    with pytest.raises(grpc.RpcError) as caught:
        listed(lister)
    assert unix_grpc.status(caught.value) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "rejected by rate limit",
    )


def test_the_default_limit_is_a_hundred_a_second_and_ten_at_once() -> None:
    behaviour = Behaviour()
    now = [0.0]
    limit = RateLimit(
        behaviour.podresources_per_s, behaviour.podresources_burst, clock=lambda: now[0]
    )
    assert [limit.allows() for _ in range(11)] == [True] * 10 + [False]
    now[0] = 0.011
    assert [limit.allows(), limit.allows()] == [True, False]
    now[0] = 60.0
    assert sum(limit.allows() for _ in range(20)) == 10
