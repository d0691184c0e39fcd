# SPDX-License-Identifier: Apache-2.0
"""What becomes of a plugin's lists and of its stream."""

from __future__ import annotations

import threading

import grpc
import pytest

from agents._pb.deviceplugin import v1beta1_pb2 as pb
from agents.standin.kubelet import EventKind
from tests.fakes.kubelet_bench import RESOURCE, Bench, pod
from tests.fakes.plugin import UNHEALTHY, device, devices, register

#: `GPU-<uuid>::<5 digits>` has 47 bytes; 60 on the wire when healthy, 62 when not.
LONG = "GPU-5f3c1a2e-7b9d-4c1f-a6e8-0d2b4f6a8c1e::{:05d}"


def long_devices(count: int, health: str) -> list[pb.Device]:
    return [device(LONG.format(number), health) for number in range(count)]


def test_complete_lists_replace_each_other(bench: Bench) -> None:
    bench.start()
    plugin = bench.plugin(listed=devices(8))
    assert bench.counts() == (8, 8)
    bench.send(plugin, devices(4))
    assert bench.counts() == (4, 4)
    bench.send(plugin, [])
    assert bench.counts() == (0, 0)


def test_unhealthy_devices_leave_allocatable_and_come_back(bench: Bench) -> None:
    bench.start()
    plugin = bench.plugin(listed=devices(8))
    bench.send(plugin, [*devices(7), device("d7", UNHEALTHY)])
    assert bench.counts() == (8, 7)
    bench.send(plugin, devices(8))
    assert bench.counts() == (8, 8)


def test_a_list_that_shrinks_below_what_is_held_leaves_the_pod_alone(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(8))
    held = kubelet.admit(pod(count=6)).containers[0].devices
    bench.send(plugin, devices(4))
    assert bench.counts() == (4, 4)
    assert kubelet.pod("default/a").containers[0].devices == held
    assert kubelet.resources()[RESOURCE].allocated == 6


@pytest.mark.parametrize(
    ("count", "health", "fits"),
    [
        (69_904, "Healthy", True),
        (69_906, "Healthy", False),
        # What fits while healthy need not fit any more when it is not.
        (67_650, UNHEALTHY, True),
        (67_651, UNHEALTHY, False),
    ],
)
def test_the_wall_at_four_mebibytes(bench: Bench, count: int, health: str, fits: bool) -> None:
    assert len(LONG.format(0)) == 47
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(1))
    plugin.send(long_devices(count, health))
    if fits:
        bench.until(lambda: bench.counts()[0] == count)
        assert kubelet.events.of(EventKind.LIST_TOO_LARGE) == ()
    else:
        bench.until(lambda: bool(kubelet.events.of(EventKind.LIST_TOO_LARGE, RESOURCE)))
        # The plugin sees its stream closed and nothing else; what there was is unhealthy now.
        assert plugin.wait_for(lambda: plugin.streams_ended == 1)
        assert bench.counts() == (1, 0)
        state = kubelet.resources()[RESOURCE]
        assert not state.plugin_alive
        assert "ResourceExhausted" in (state.last_error or "")
        assert "larger than max" in (state.last_error or "")


def test_a_first_list_over_the_wall_shows_the_resource_with_nothing(bench: Bench) -> None:
    kubelet = bench.start()
    five_mebibytes = [device("x" * 1000 + str(number)) for number in range(5 * 1024)]
    plugin = bench.plugin(register=False, listed=five_mebibytes)
    plugin.register()
    bench.until(lambda: bool(kubelet.events.of(EventKind.LIST_TOO_LARGE)))
    assert bench.counts() == (0, 0)
    # Nobody tries again: only a new registration helps.
    assert plugin.streams == 1
    plugin.send(devices(3))
    bench.register(plugin)
    assert bench.counts() == (3, 3)


def test_a_stream_that_ends_takes_everything_out_of_allocatable(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(8))
    held = kubelet.admit(pod(count=2))
    plugin.end_streams()
    bench.until(lambda: bench.counts() == (8, 0))
    assert kubelet.resources()[RESOURCE].last_error == (
        "ListAndWatch ended unexpectedly for device plugin: EOF"
    )
    assert kubelet.pod("default/a") == held
    # Its socket is still there, and yet nobody reads it again.
    plugin.send(devices(8))
    assert not plugin.wait_for(lambda: plugin.streams > 1, timeout_s=0.1)
    bench.register(plugin)
    assert bench.counts() == (8, 8)
    assert kubelet.resources()[RESOURCE].last_error is None


def test_a_dead_plugin_is_forgotten_after_the_grace(bench: Bench) -> None:
    kubelet = bench.start(endpoint_grace_s=0.15)
    plugin = bench.plugin(listed=devices(8))
    plugin.stop()
    bench.until(lambda: bench.counts() == (8, 0))
    bench.until(lambda: bool(kubelet.events.of(EventKind.FORGOTTEN, RESOURCE)))
    assert bench.counts() == (0, 0)
    assert kubelet.node().capacity == {RESOURCE: "0"}
    message = kubelet.admit(pod()).message
    assert f"cannot allocate unregistered device {RESOURCE}" in message


def test_a_second_registration_replaces_the_first_silently(bench: Bench) -> None:
    kubelet = bench.start()
    first = bench.plugin(listed=devices(8), name="one.sock")
    second = bench.plugin(listed=devices(3), name="two.sock")
    assert first.wait_for(lambda: first.streams_ended == 1)
    assert bench.counts() == (3, 3)
    assert kubelet.resources()[RESOURCE].plugin_alive
    assert [event.text for event in kubelet.events.of(EventKind.REPLACED)] == [
        "two.sock takes the place of one.sock"
    ]
    # The end of the first stream is nobody's loss.
    assert kubelet.events.of(EventKind.STREAM_ENDED) == ()
    kubelet.admit(pod())
    assert (len(first.allocated), len(second.allocated)) == (0, 1)


def test_a_plugin_that_registers_twice_is_read_by_its_second_stream(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(8))
    bench.register(plugin)
    assert plugin.wait_for(lambda: (plugin.streams, plugin.streams_ended) == (2, 1))
    assert bench.counts() == (8, 8)
    assert len(kubelet.events.of(EventKind.REPLACED)) == 1


def test_registering_without_a_plugin_behind_it_leaves_the_former_one(bench: Bench) -> None:
    kubelet = bench.start(dial_timeout_s=0.2)
    bench.plugin(listed=devices(8))
    request = pb.RegisterRequest(version="v1beta1", endpoint="nobody.sock", resource_name=RESOURCE)
    with pytest.raises(grpc.RpcError, match="failed to dial"):
        register(bench.plugin_directory, request)
    assert bench.counts() == (8, 8)
    assert "failed to dial" in (kubelet.resources()[RESOURCE].last_error or "")


def test_an_id_listed_twice_is_counted_once_and_noted(bench: Bench) -> None:
    kubelet = bench.start()
    bench.plugin(listed=[*devices(2), device("d0")])
    assert bench.counts() == (2, 2)
    assert len(kubelet.events.of(EventKind.LIST_ODD, RESOURCE)) == 1


def test_trap_late_call_back(bench: Bench) -> None:
    kubelet = bench.start(dial_back_delay_s=0.2)
    bench.plugin(listed=devices(1))
    assert kubelet.events.all()
    assert bench.counts() == (1, 1)


def test_trap_no_call_back(bench: Bench) -> None:
    kubelet = bench.start(dial_back=False)
    plugin = bench.plugin(register=False, listed=devices(1))
    plugin.register()
    assert not plugin.wait_for(lambda: plugin.streams > 0, timeout_s=0.1)
    assert kubelet.resources() == {}


def test_trap_two_streams_at_once(bench: Bench) -> None:
    bench.start(duplicate_stream=True)
    plugin = bench.plugin(listed=devices(2))
    assert plugin.wait_for(lambda: plugin.streams == 2)
    assert plugin.streams_ended == 0
    bench.send(plugin, devices(3))
    assert bench.counts() == (3, 3)


def test_trap_a_plugin_without_a_spare_worker_answers_nothing_any_more(bench: Bench) -> None:
    kubelet = bench.start(duplicate_stream=True, slow_call_s=0.05)
    plugin = bench.plugin(listed=devices(2), workers=2)
    assert plugin.wait_for(lambda: plugin.streams == 2)
    admission = threading.Thread(target=kubelet.admit, args=[pod()])
    admission.start()
    bench.until(lambda: bool(kubelet.events.of(EventKind.SLOW_CALL, RESOURCE)))
    assert plugin.allocated == []
    kubelet.stop()
    admission.join(5)
    assert not admission.is_alive()


def test_trap_a_replaced_stream_that_stays_takes_the_resource_down(bench: Bench) -> None:
    kubelet = bench.start(keep_replaced_stream=True)
    first = bench.plugin(listed=devices(8), name="one.sock")
    second = bench.plugin(listed=devices(3), name="two.sock")
    assert first.streams_ended == 0
    first.end_streams()
    bench.until(lambda: not kubelet.resources()[RESOURCE].plugin_alive)
    assert second.wait_for(lambda: second.streams_ended == 1)
    assert bench.counts() == (3, 0)
