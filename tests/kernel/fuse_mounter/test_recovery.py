# SPDX-License-Identifier: Apache-2.0
"""Clients, agents and holders that die or hang, seen from pods that go on running."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agents import mountinfo
from agents.hostfs import PROC
from agents.mounts import LinuxMounts
from fuse_mounter import drain
from tests.fakes.mount_node import Node, Pod, eventually, scratch
from tests.fakes.pod_reader import Reader

#: What a mount says whose client is gone.
LOST = r"not connected|connection abort|No such device"


def close_lost(descriptor: int) -> None:
    """The kernel asks the dead client even now."""
    with contextlib.suppress(OSError):
        os.close(descriptor)


@pytest.fixture
def served(node: Node) -> tuple[Node, Pod]:
    """One published mount, and a pod that uses it."""
    node.configure(scratch(node.source("src", who="one")))
    node.start()
    node.wait("scratch")
    return node, node.pod()


def test_a_killed_client_is_replaced_in_pods_that_run(
    served: tuple[Node, Pod],
    soak: bool,
    record_property: Callable[[str, object], None],
    replaced_layers: int,
) -> None:
    node, pod = served
    times = 100 if soak else 3
    held = os.open(pod.path("scratch", "who"), os.O_RDONLY)
    reader = Reader(pod.path("scratch"))
    for number in range(1, times + 1):
        os.kill(node.wait("scratch")["client_pid"], signal.SIGKILL)
        node.recovered("scratch", number)
        if soak:
            time.sleep(10.5)  # what has served for a while is replaced without a pause
    seen, gap, count = reader.result()
    record_property("mean_gap_seconds", gap / times)
    assert set(seen) <= {"one", errno.ENOTCONN, errno.ECONNABORTED, errno.ENODEV}
    assert count > 100
    assert node.mount("scratch")["layers"] == replaced_layers
    # A file of the dead client is lost, as with any file system; it neither hangs nor lies.
    with pytest.raises(OSError, match=LOST):
        os.pread(held, 1, 0)
    close_lost(held)


def test_a_stopped_client_is_found_out_and_replaced(
    served: tuple[Node, Pod], replaced_layers: int
) -> None:
    node, pod = served
    os.kill(node.mount("scratch")["client_pid"], signal.SIGSTOP)
    waiting = subprocess.Popen(["cat", pod.path("scratch", "not-looked-up-yet")], stderr=-3)
    status = node.recovered("scratch", 1, "hung")
    assert "aborted" in node.log()
    assert waiting.wait(10) != 0, "the abort freed who waited"
    assert pod.path("scratch", "who").read_text() == "one"
    assert status["layers"] == replaced_layers


def test_a_stopped_client_that_nobody_uses_is_found_out_by_its_probe(
    served: tuple[Node, Pod],
) -> None:
    node, pod = served
    os.kill(node.mount("scratch")["client_pid"], signal.SIGSTOP)
    node.recovered("scratch", 1, "hung")
    assert pod.path("scratch", "who").read_text() == "one"


def test_an_aborted_connection_is_replaced(served: tuple[Node, Pod]) -> None:
    """By somebody else, or by the kernel's own limit for requests."""
    node, pod = served
    (layer,) = [e for e in node.table() if e.mount_point == str(node.places.root / "scratch")][1:]
    connection = node.places.fusectl
    if not connection.is_mount():
        connection = Path("/sys/fs/fuse/connections")
    (connection / str(layer.device[1]) / "abort").write_text("1")
    eventually(lambda: sum(node.mount("scratch")["recoveries"].values()) == 1, "recovered")
    node.wait("scratch")
    assert pod.path("scratch", "who").read_text() == "one"


def test_an_agent_that_comes_back_leaves_a_good_mount_alone(served: tuple[Node, Pod]) -> None:
    node, pod = served
    before = node.mount("scratch")["client_pid"], len(node.table())
    held = pod.path("scratch", "who").open()
    reader = Reader(pod.path("scratch"))
    node.stop(signal.SIGKILL)
    assert pod.path("scratch", "who").read_text() == "one"
    node.start()
    status = node.wait("scratch", published_by="adopted")
    assert node.stop(signal.SIGTERM) == 0
    assert pod.path("scratch", "who").read_text() == "one"
    node.start()
    status = node.wait("scratch", published_by="adopted")
    assert (status["client_pid"], len(node.table())) == before
    assert status["recoveries"] == {}
    assert reader.result()[0] == ["one"]
    assert os.pread(held.fileno(), 3, 0) == b"one"
    held.close()


def test_a_client_that_died_while_no_agent_ran_is_replaced_by_the_next_one(
    served: tuple[Node, Pod], replaced_layers: int
) -> None:
    node, pod = served
    pid = node.mount("scratch")["client_pid"]
    node.stop(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(OSError, match=LOST):
        pod.path("scratch", "who").read_text()
    node.start()
    assert node.wait("scratch")["client_pid"] != pid
    assert pod.path("scratch", "who").read_text() == "one"
    assert node.mount("scratch")["layers"] == replaced_layers


def test_a_killed_holder_is_replaced_and_its_clients_are_adopted(
    served: tuple[Node, Pod],
) -> None:
    node, pod = served
    reader = Reader(pod.path("scratch"))
    client, holder = node.mount("scratch")["client_pid"], node.holder_pid()
    os.kill(holder, signal.SIGKILL)
    eventually(lambda: node.holders() not in ([holder], []), "another holder")
    assert node.wait("scratch")["client_pid"] == client
    assert reader.result()[0] == ["one"]
    # The new holder did not start this client, and still learns of its end at once.
    os.kill(client, signal.SIGKILL)
    node.recovered("scratch", 1)
    assert pod.path("scratch", "who").read_text() == "one"


def test_everything_killed_at_once(served: tuple[Node, Pod], replaced_layers: int) -> None:
    node, pod = served
    assert node.agent is not None
    node.agent.send_signal(signal.SIGSTOP)
    pids = [node.holder_pid(), *node.clients(), node.agent.pid]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    node.stop(signal.SIGKILL)
    node.start()
    node.wait("scratch")
    assert pod.path("scratch", "who").read_text() == "one"
    assert node.mount("scratch")["layers"] == replaced_layers


def test_a_second_agent_is_refused_and_disturbs_nothing(served: tuple[Node, Pod]) -> None:
    node, pod = served
    first = node.agent
    node.start()
    assert node.agent is not None
    assert node.agent.wait(20) != 0
    node.agent = first
    assert node.wait("scratch")["recoveries"] == {}
    assert pod.path("scratch", "who").read_text() == "one"


def test_one_mount_that_dies_again_and_again_waits_longer_and_harms_no_other(node: Node) -> None:
    one = scratch(node.source("src", who="one"))
    other = {**scratch(node.source("other", who="other")), "name": "other", "path": "other"}
    node.configure(one, other)
    node.start()
    node.wait("other")
    kept = node.wait("other")["client_pid"]
    end = time.monotonic() + 4
    kills = 0
    while time.monotonic() < end:
        for pid in node.clients():
            if pid != kept:
                os.kill(pid, signal.SIGKILL)
                kills += 1
        time.sleep(0.05)
    assert 3 <= kills <= 12, "it goes on trying, with pauses"
    assert node.mount("other")["client_pid"] == kept
    assert node.mount("other")["recoveries"] == {}
    node.wait("scratch")


def test_a_working_directory_inside_is_left_by_an_absolute_path(served: tuple[Node, Pod]) -> None:
    node, pod = served
    inside = subprocess.Popen(
        [
            "sh",
            "-c",
            f"cd {pod.path('scratch')} && echo in && read _ && cat {pod.path('scratch')}/who",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert inside.stdout is not None
    assert inside.stdout.readline() == b"in\n"
    os.kill(node.mount("scratch")["client_pid"], signal.SIGKILL)
    node.recovered("scratch", 1)
    assert inside.communicate(b"go\n", timeout=10)[0] == b"one"


def test_drain_leaves_nothing(served: tuple[Node, Pod]) -> None:
    node, pod = served
    with pytest.raises(Exception, match="stop that agent first"):
        node.drain()
    held = os.open(pod.path("scratch", "who"), os.O_RDONLY)
    node.stop()
    node.drain()
    assert node.table() == ()
    assert node.marked() == []
    assert not node.places.root.exists()
    left = {path.name for path in node.places.run_dir.iterdir()}
    assert left <= {"mounts.sock"}
    assert not node.cgroups()
    with pytest.raises(OSError, match=LOST):
        os.pread(held, 1, 0)
    close_lost(held)
    assert pod.path("scratch").parent.is_dir()
    node.drain()  # twice is fine


def test_drain_after_everything_was_killed(served: tuple[Node, Pod]) -> None:
    node, _ = served
    client, holder = node.clients()[0], node.holder_pid()
    os.kill(client, signal.SIGSTOP)
    os.kill(holder, signal.SIGKILL)
    node.stop(signal.SIGKILL)
    node.drain()
    assert node.table() == ()
    eventually(lambda: not node.marked(), "what the agent had started ends after it")
    assert not node.cgroups()


def test_drain_does_not_touch_what_is_not_ours(
    served: tuple[Node, Pod], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, _ = served
    monkeypatch.setattr(drain, "_LIMIT_S", 2.0)  # of waiting in vain
    place = node.places.root / "scratch"
    LinuxMounts().mount("theirs", place, "tmpfs", data="size=4k")
    node.stop()
    with pytest.raises(Exception, match="still there"):
        node.drain()
    assert mountinfo.at(mountinfo.read(PROC), place)[-1].source == "theirs"
    LinuxMounts().unmount(place)
    node.drain()
    assert node.table() == ()
