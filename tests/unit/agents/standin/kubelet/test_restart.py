# SPDX-License-Identifier: Apache-2.0
"""What a restart of the kubelet does to plugins, pods and allocations."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path
from typing import NoReturn

import pytest

from agents._pb.deviceplugin import v1beta1_pb2 as pb
from agents.errors import AgentError
from agents.standin.kubelet import EventKind, checkpoint
from agents.standin.pods import PodPhase
from tests.fakes.kubelet_bench import RESOURCE, Bench, pod
from tests.fakes.plugin import UNHEALTHY, device, devices

CHECKPOINT = "kubelet_internal_checkpoint"


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_every_socket_is_deleted_and_every_file_stays(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(2))
    (bench.plugin_directory / "notes.txt").write_text("mine")
    assert names(bench.plugin_directory) == {"kubelet.sock", "fake.sock", CHECKPOINT, "notes.txt"}
    kubelet.restart()
    assert names(bench.plugin_directory) == {"kubelet.sock", CHECKPOINT, "notes.txt"}
    assert plugin.wait_for(lambda: plugin.streams_ended == 1)


def test_a_known_resource_shows_nothing_until_its_plugin_registers_again(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(8))
    kubelet.restart()
    assert bench.counts() == (0, 0)
    assert kubelet.node().capacity == {RESOURCE: "0"}
    assert kubelet.admit(pod()).message == (
        "Pod was rejected: Allocate failed due to no healthy devices present; "
        f"cannot allocate unhealthy devices {RESOURCE}, which is unexpected"
    )
    plugin.stop()
    bench.plugin(listed=devices(8), name="again.sock")
    assert bench.counts() == (8, 8)


@pytest.mark.parametrize("new_object", [False, True], ids=["same object", "new object"])
def test_pods_run_on_and_their_ids_are_remembered(bench: Bench, new_object: bool) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(8))
    before = kubelet.admit(pod("a", 2))
    kubelet.stop()
    plugin.stop()
    if new_object:
        kubelet = bench.start()
    else:
        kubelet.start()
    assert kubelet.pod("default/a") == before
    assert kubelet.resources()[RESOURCE].allocated == 2
    again = bench.plugin(listed=devices(8), name="again.sock")
    others = kubelet.admit(pod("b", 6)).containers[0].devices[RESOURCE]
    assert set(others).isdisjoint(before.containers[0].devices[RESOURCE])
    assert "Requested: 1, Available: 0" in kubelet.admit(pod("c", 1)).message
    # The running pod is not allocated a second time.
    assert len(again.allocated) == 1
    assert len(bench.runtime.containers()) == 2


def test_a_container_restarted_after_the_kubelet_gets_the_first_answer(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(2))
    plugin.allocate = lambda ids: pb.ContainerAllocateResponse(envs={"TOKEN": "first"})
    kubelet.admit(pod())
    kubelet.stop()
    kubelet = bench.start()
    kubelet.restart_container("default/a", "main")
    (running,) = bench.runtime.containers()
    assert running.start.env == {"TOKEN": "first"}


def test_a_container_that_ended_meanwhile_is_noticed(bench: Bench) -> None:
    kubelet = bench.start()
    bench.plugin(listed=devices(2))
    kubelet.admit(pod(count=2))
    kubelet.stop()
    bench.runtime.exit(bench.runtime.containers()[0].start.id, 137)
    kubelet = bench.start()
    bench.until(lambda: kubelet.pod("default/a").phase is PodPhase.FAILED)
    assert kubelet.resources()[RESOURCE].allocated == 0


def test_what_vanished_pods_held_is_free_at_the_next_admission(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(2))
    kubelet.admit(pod("a", 2))
    kubelet.stop()
    plugin.stop()
    bench.runtime.close()
    kubelet = bench.start()
    bench.plugin(listed=devices(2), name="again.sock")
    assert kubelet.resources()[RESOURCE].allocated == 2
    assert kubelet.admit(pod("b", 2)).phase is PodPhase.RUNNING


def test_the_checkpoint_holds_healthy_ids_only_and_each_allocation(bench: Bench) -> None:
    kubelet = bench.start()
    bench.plugin(listed=[*devices(3), device("sick", UNHEALTHY)])
    status = kubelet.admit(pod(count=2))
    data = json.loads((bench.plugin_directory / CHECKPOINT).read_text())["Data"]
    assert data["RegisteredDevices"] == {RESOURCE: ["d0", "d1", "d2"]}
    (entry,) = data["PodDeviceEntries"]
    assert entry["PodUID"] == status.uid
    assert sorted(entry["DeviceIDs"]["-1"]) == list(status.containers[0].devices[RESOURCE])


def test_a_damaged_checkpoint_is_an_empty_one(bench: Bench) -> None:
    kubelet = bench.start()
    kubelet.stop()
    (bench.plugin_directory / CHECKPOINT).write_text("{")
    kubelet = bench.start()
    assert len(kubelet.events.of(EventKind.CHECKPOINT_UNREADABLE)) == 1
    assert kubelet.resources() == {}


def test_a_checkpoint_that_cannot_be_written_stops_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    kubelet = bench.start()
    monkeypatch.setattr(checkpoint, "write", full)
    bench.plugin(listed=devices(2))
    assert bench.counts() == (2, 2)
    assert kubelet.admit(pod(count=1)).phase is PodPhase.RUNNING
    assert "No space left" in kubelet.events.of(EventKind.CHECKPOINT_UNWRITABLE)[0].text


def test_a_pod_in_admission_when_the_kubelet_stops_is_admitted_after_the_start(
    bench: Bench,
) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(2))
    asked = threading.Event()

    def hang(_: object) -> pb.ContainerAllocateResponse:
        asked.set()
        plugin.released.wait(10)
        return pb.ContainerAllocateResponse()

    plugin.allocate = hang
    admission = threading.Thread(target=kubelet.admit, args=[pod()])
    admission.start()
    assert asked.wait(5)
    kubelet.stop()
    admission.join(5)
    assert not admission.is_alive()
    assert kubelet.pod("default/a").phase is PodPhase.PENDING
    kubelet.start()
    # As on a real node: it comes before the plugin, and that is final.
    bench.until(lambda: kubelet.pod("default/a").phase is PodPhase.FAILED)
    assert "no healthy devices present" in kubelet.pod("default/a").message


def test_start_and_stop_may_be_repeated(bench: Bench) -> None:
    kubelet = bench.start()
    with pytest.raises(AgentError, match="runs already"):
        kubelet.start()
    kubelet.stop()
    kubelet.stop()
    assert not kubelet.running
    with pytest.raises(AgentError, match="does not run"):
        kubelet.admit(pod())
    kubelet.start()
    bench.plugin(listed=devices(1))
    assert bench.counts() == (1, 1)


def test_a_kubelet_that_was_never_started_says_so(bench: Bench) -> None:
    with pytest.raises(AgentError, match="never started"):
        bench.kubelet.resources()


def test_trap_sockets_are_left_where_they_are(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(2))
    before = (bench.plugin_directory / "kubelet.sock").stat()
    # A file in between, so that the new socket cannot get the old inode.
    kubelet.stop()
    (bench.plugin_directory / "between").touch()
    kubelet = bench.start(clear_sockets=False)
    after = (bench.plugin_directory / "kubelet.sock").stat()
    assert plugin.socket.exists()
    assert (before.st_ino, before.st_ctime_ns) != (after.st_ino, after.st_ctime_ns)
    assert bench.counts() == (0, 0)


def test_trap_the_directory_is_made_anew(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(8))
    kubelet.admit(pod(count=3))
    watched = os.open(bench.plugin_directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        kubelet.stop()
        seen = set(os.listdir(watched))
        kubelet = bench.start(replace_directory=True)
        # Whoever watches the directory by its inode sees no change at all.
        assert set(os.listdir(watched)) == seen
    finally:
        os.close(watched)
    assert not plugin.socket.exists()
    assert names(bench.plugin_directory) == {"kubelet.sock", CHECKPOINT}
    assert kubelet.resources()[RESOURCE].allocated == 3
    kubelet.stop()
    found = {path.name for path in bench.directory.iterdir()}
    assert found == {"device-plugins", "pod-resources", "pods"}
