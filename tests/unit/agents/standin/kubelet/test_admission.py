# SPDX-License-Identifier: Apache-2.0
"""Which devices a pod gets, and the words with which it is rejected."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from agents._pb.deviceplugin import v1beta1_pb2 as pb
from agents.errors import AgentError
from agents.standin.kubelet import EventKind, PodStatus
from agents.standin.pods import ContainerSpec, PodPhase, PodSpec
from tests.fakes.kubelet_bench import RESOURCE, Bench, pod
from tests.fakes.plugin import UNHEALTHY, Failure, device, devices

PREFERS = {"get_preferred_allocation_available": True}
OTHER = "nodeshare/other"


def ids(status: PodStatus) -> tuple[str, ...]:
    return status.containers[0].devices.get(RESOURCE, ())


def assert_rejected(status: PodStatus, reason: str) -> None:
    assert status.phase is PodPhase.FAILED
    assert status.reason == "UnexpectedAdmissionError"
    assert (
        status.message == f"Pod was rejected: Allocate failed due to {reason}, which is unexpected"
    )
    assert all(container.id is None for container in status.containers)


def test_a_pod_gets_its_devices_and_what_allocate_answered(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(8))
    status = kubelet.admit(pod(count=3))
    assert status.phase is PodPhase.RUNNING
    assert len(ids(status)) == 3
    assert [sorted(asked) for asked in plugin.allocated] == [list(ids(status))]
    (running,) = bench.runtime.containers()
    assert running.start.env == {"IDS": ",".join(ids(status))}
    assert status.containers[0].id == running.start.id
    assert status.containers[0].pid == running.pid
    assert kubelet.resources()[RESOURCE].allocated == 3


def test_two_pods_never_share_an_id(bench: Bench) -> None:
    kubelet = bench.start()
    bench.plugin(listed=devices(8))
    first, second = kubelet.admit(pod("a", 5)), kubelet.admit(pod("b", 3))
    assert set(ids(first)) | set(ids(second)) == {f"d{n}" for n in range(8)}


def test_a_pod_without_devices_needs_no_plugin(bench: Bench) -> None:
    status = bench.start().admit(pod(resources={}))
    assert status.phase is PodPhase.RUNNING


def test_the_plugin_is_offered_every_free_id(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(8), options=PREFERS)
    assert ids(kubelet.admit(pod("a", 2))) == ("d0", "d1")
    assert ids(kubelet.admit(pod("b", 6))) == ("d2", "d3", "d4", "d5", "d6", "d7")
    (first, second) = plugin.preferred
    assert (sorted(first[0]), first[1:]) == ([f"d{n}" for n in range(8)], ([], 2))
    # Also when all that is free is needed.
    assert (sorted(second[0]), second[1:]) == ([f"d{n}" for n in range(2, 8)], ([], 6))


def test_without_the_option_the_plugin_is_not_asked(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(8))
    kubelet.admit(pod(count=2))
    assert plugin.preferred == []


def test_a_short_answer_is_completed_at_random(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(20), options=PREFERS)
    plugin.prefer = lambda *_: ["d7"]
    rest = set()
    for number in range(8):
        status = kubelet.admit(pod(f"p{number}", 2))
        assert "d7" in ids(status)
        rest |= set(ids(status))
        kubelet.delete(status.key)
    # Always the same two devices would be no chance at all.
    assert len(rest) > 3
    assert len(kubelet.events.of(EventKind.ANSWER_REPAIRED, RESOURCE)) == 8


def test_an_empty_answer_is_completed_too(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(4), options=PREFERS)
    plugin.prefer = lambda *_: []
    assert len(ids(kubelet.admit(pod(count=4)))) == 4


def test_ids_that_were_not_offered_are_dropped(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=[*devices(3), device("sick", UNHEALTHY)], options=PREFERS)
    kubelet.admit(pod("a", 1))
    taken = set(ids(kubelet.pod("default/a")))
    plugin.prefer = lambda *_: [*taken, "sick", "unknown"]
    got = set(ids(kubelet.admit(pod("b", 2))))
    assert got == {"d0", "d1", "d2"} - taken


def fails(*_: object) -> None:
    raise Failure("asked 20, largest free block 15")


def test_an_error_from_allocate_rejects_the_pod_and_frees_the_devices(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(8))
    plugin.allocate, answer = fails, plugin.allocate
    assert_rejected(
        kubelet.admit(pod("a", 8)),
        "rpc error: code = Internal desc = asked 20, largest free block 15",
    )
    assert bench.runtime.containers() == ()
    plugin.allocate = answer
    assert len(ids(kubelet.admit(pod("b", 8)))) == 8
    # Final: the first one stays failed.
    assert kubelet.pod("default/a").phase is PodPhase.FAILED


def test_an_error_from_preferred_allocation_rejects_the_pod(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(8), options=PREFERS)
    plugin.prefer = fails  # type: ignore[assignment] # it answers nothing
    assert_rejected(
        kubelet.admit(pod(count=2)),
        "device plugin GetPreferredAllocation rpc failed with err: "
        "rpc error: code = Internal desc = asked 20, largest free block 15",
    )
    assert plugin.allocated == []


def test_no_healthy_devices(bench: Bench) -> None:
    kubelet = bench.start()
    bench.plugin(listed=devices(8, UNHEALTHY))
    assert_rejected(
        kubelet.admit(pod()),
        f"no healthy devices present; cannot allocate unhealthy devices {RESOURCE}",
    )


def test_too_few_devices(bench: Bench) -> None:
    kubelet = bench.start()
    bench.plugin(listed=[*devices(4), device("d4", UNHEALTHY)])
    kubelet.admit(pod("a", 1))
    assert_rejected(
        kubelet.admit(pod("b", 4)),
        f"requested number of devices unavailable for {RESOURCE}. Requested: 4, Available: 3",
    )


def test_a_resource_that_nobody_registered(bench: Bench) -> None:
    assert_rejected(bench.start().admit(pod()), f"cannot allocate unregistered device {RESOURCE}")


def test_an_answer_without_a_container_is_an_error(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(1))
    plugin.allocate = lambda _: None
    message = kubelet.admit(pod()).message
    assert "no containers return in allocation response" in message
    assert kubelet.resources()[RESOURCE].allocated == 0


def test_a_dead_plugins_pod_is_rejected(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(1))
    plugin.stop()
    bench.until(lambda: bench.counts() == (1, 0))
    assert kubelet.admit(pod()).reason == "UnexpectedAdmissionError"


def test_two_resources_in_one_container(bench: Bench) -> None:
    kubelet = bench.start()
    one = bench.plugin(listed=devices(2), name="one.sock")
    two = bench.plugin(listed=devices(2), name="two.sock", resource=OTHER)
    one.allocate = lambda _: pb.ContainerAllocateResponse(envs={"WHO": "one", "ONE": "1"})
    two.allocate = lambda _: pb.ContainerAllocateResponse(envs={"WHO": "two", "TWO": "2"})
    kubelet.admit(pod(resources={RESOURCE: 1, OTHER: 1}))
    (running,) = bench.runtime.containers()
    assert running.start.env == {"WHO": "one", "ONE": "1", "TWO": "2"}
    assert [event.resource for event in kubelet.events.of(EventKind.ANSWER_IGNORED)] == [OTHER]


def test_what_a_pod_got_before_another_resource_failed_stays_taken(bench: Bench) -> None:
    """Until the failed pod itself is gone."""
    kubelet = bench.start()
    bench.plugin(listed=devices(4), name="one.sock")
    two = bench.plugin(listed=devices(4), name="two.sock", resource=OTHER)
    two.allocate = fails
    assert kubelet.admit(pod(resources={RESOURCE: 3, OTHER: 1})).phase is PodPhase.FAILED
    message = kubelet.admit(pod("b", 2)).message
    assert "Requested: 2, Available: 1" in message
    kubelet.delete("default/a")
    assert kubelet.admit(pod("c", 4)).phase is PodPhase.RUNNING


def test_every_container_has_its_own_allocation(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(8))
    spec = PodSpec(
        "a", [ContainerSpec(name, ["x"], resources={RESOURCE: 2}) for name in ("one", "two")]
    )
    status = kubelet.admit(spec)
    assert len(plugin.allocated) == 2
    held = [set(container.devices[RESOURCE]) for container in status.containers]
    assert held[0].isdisjoint(held[1])


def test_a_hanging_call_blocks_every_other_pod_and_is_named(bench: Bench) -> None:
    kubelet = bench.start(slow_call_s=0.05)
    plugin = bench.plugin(listed=devices(8), options=PREFERS)
    asked = threading.Event()

    def hang(offered: Sequence[str], _: Sequence[str], size: int) -> Sequence[str]:
        asked.set()
        plugin.released.wait(10)
        return offered[:size]

    plugin.prefer = hang
    stuck = threading.Thread(target=kubelet.admit, args=[pod("a")])
    stuck.start()
    assert asked.wait(5)
    waiting = threading.Thread(target=kubelet.admit, args=[pod("b", resources={})])
    waiting.start()
    bench.until(lambda: bool(kubelet.events.of(EventKind.SLOW_CALL, RESOURCE)))
    (event,) = kubelet.events.of(EventKind.SLOW_CALL)
    assert event.text.startswith("GetPreferredAllocation has been out for 0.")
    assert kubelet.pod("default/b").phase is PodPhase.PENDING
    plugin.released.set()
    stuck.join(5)
    waiting.join(5)
    assert {status.phase for status in kubelet.pods()} == {PodPhase.RUNNING}


def test_allocate_is_called_for_one_pod_at_a_time(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(8))
    inside: list[int] = []
    most: list[int] = []

    def allocate(asked: Sequence[str]) -> pb.ContainerAllocateResponse:
        inside.append(1)
        most.append(len(inside))
        plugin.released.wait(0.02)
        inside.pop()
        return pb.ContainerAllocateResponse()

    plugin.allocate = allocate
    threads = [threading.Thread(target=kubelet.admit, args=[pod(f"p{n}")]) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert most == [1] * 6


def test_a_plugin_that_dies_in_allocate_rejects_the_pod(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(8))
    asked = threading.Event()

    def allocate(_: Sequence[str]) -> pb.ContainerAllocateResponse:
        asked.set()
        plugin.released.wait(10)
        return pb.ContainerAllocateResponse()

    plugin.allocate = allocate
    results: list[PodStatus] = []
    thread = threading.Thread(target=lambda: results.append(kubelet.admit(pod())))
    thread.start()
    assert asked.wait(5)
    plugin.crash()
    thread.join(5)
    assert results[0].reason == "UnexpectedAdmissionError"
    assert "rpc error: code = " in results[0].message


def test_a_name_is_taken_until_the_pod_is_deleted(bench: Bench) -> None:
    kubelet = bench.start()
    kubelet.admit(pod(resources={}))
    with pytest.raises(AgentError, match='pods "default/a" already exists; delete it first'):
        kubelet.admit(pod(resources={}))
    kubelet.delete("default/a")
    assert kubelet.admit(pod(resources={})).phase is PodPhase.RUNNING
    with pytest.raises(AgentError, match='pods "default/nobody" not found'):
        kubelet.delete("default/nobody")


def test_trap_the_preferred_call_is_skipped(bench: Bench) -> None:
    kubelet = bench.start(ask_preferred=False)
    plugin = bench.plugin(listed=devices(8), options=PREFERS)
    assert len(ids(kubelet.admit(pod(count=3)))) == 3
    assert plugin.preferred == []


def test_trap_alignment_offers_a_part_of_the_free_ids(bench: Bench) -> None:
    kubelet = bench.start(numa_node=1)
    listed = [device(f"d{n}", numa=[n // 4]) for n in range(8)]
    plugin = bench.plugin(listed=listed, options=PREFERS)
    kubelet.admit(pod("a", 2))
    ((offered, included, size),) = plugin.preferred
    assert (sorted(offered), included, size) == (["d4", "d5", "d6", "d7"], [], 2)
    kubelet.admit(pod("b", 3))
    assert sorted(plugin.preferred[1][1]) == ["d6", "d7"]
    assert {"d6", "d7"} < set(ids(kubelet.pod("default/b")))


def test_trap_allocate_comes_late(bench: Bench) -> None:
    """At the start of the container: an error then does not reject the pod."""
    kubelet = bench.start(late_allocate=True, retry_s=0.05)
    plugin = bench.plugin(listed=devices(8))
    plugin.allocate, answer = fails, plugin.allocate
    status = kubelet.admit(pod())
    assert (status.phase, status.containers[0].reason) == (
        PodPhase.PENDING,
        "CreateContainerConfigError",
    )
    plugin.allocate = answer
    bench.until(lambda: kubelet.pod("default/a").phase is PodPhase.RUNNING)


def test_many_devices_in_one_request(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(20_000), options=PREFERS)
    assert len(ids(kubelet.admit(pod(count=16_000)))) == 16_000
    assert len(plugin.preferred[0][0]) == 20_000
