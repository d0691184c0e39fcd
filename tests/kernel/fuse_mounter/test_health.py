# SPDX-License-Identifier: Apache-2.0
"""What is found out about mounts that are not well, and what is done: never more than is needed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agents.hostfs import PROC
from agents.mounts import LinuxMounts
from fuse_mounter.requests import Reply, Request, Verb, ask
from tests.fakes.mount_node import LIMIT_S, Node, Pod, bindfs, eventually, sick


@pytest.fixture
def mood(node: Node) -> Path:
    path = node.directory / "mood"
    path.write_text("ok")
    return path


@pytest.fixture
def served(node: Node, mood: Path) -> tuple[Node, Pod]:
    node.configure(sick(mood))
    node.start()
    node.wait("scratch")
    return node, node.pod()


def events(node: Node, name: str) -> list[dict[str, Any]]:
    """Log lines of this event."""
    lines = (json.loads(line) for line in node.log().splitlines() if line.startswith("{"))
    return [line for line in lines if line["event"] == name]


def test_a_backend_that_hangs_is_given_up_with_what_its_client_was_doing(
    served: tuple[Node, Pod], mood: Path
) -> None:
    node, pod = served
    before = node.mount("scratch")
    assert before["space"] == {
        "size": 4096000,
        "available": 2048000,
        "inodes": 50,
        "inodes_free": 40,
    }
    mood.write_text("hang")
    eventually(lambda: node.mount("scratch")["aborts"], "it is given up")
    mood.write_text("ok")
    status = node.recovered("scratch", 1, "hung")
    assert pod.path("scratch", "who").read_text() == "one"
    assert status["aborts"] == 1
    assert status["aborted_requests"] >= 1
    (abort,) = events(node, "hung connection aborted")
    assert abort["pid"] == before["client_pid"]
    assert any("poll" in line for line in abort["threads"]), "it waited for requests"
    assert "its server does not answer" in abort["cause"]
    # One that is stopped is told apart.
    os.kill(node.mount("scratch")["client_pid"], signal.SIGSTOP)
    node.recovered("scratch", 2, "hung")
    assert "stopped (SIGSTOP)" in events(node, "hung connection aborted")[1]["cause"]


def test_an_error_is_told_by_its_name_and_takes_nothing_away(
    served: tuple[Node, Pod], mood: Path
) -> None:
    node, pod = served
    client = node.mount("scratch")["client_pid"]
    mood.write_text(str(errno.EACCES))
    assert "EACCES (Permission denied)" in node.wait("scratch", "degraded")["cause"]
    assert pod.path("scratch", "who").read_text() == "one"
    mood.write_text("ok")
    assert node.wait("scratch")["client_pid"] == client
    # And while nothing happens nothing is done: no child, no thread and no line more.
    before, lines = tasks(node), len(node.log().splitlines())
    time.sleep(1)
    assert tasks(node) <= before + 1
    assert len(node.log().splitlines()) == lines


def tasks(node: Node) -> int:
    assert node.agent is not None
    return len(list((PROC / str(node.agent.pid) / "task").iterdir()))


def test_a_stale_mount_is_replaced(served: tuple[Node, Pod], mood: Path) -> None:
    node, pod = served
    client = node.mount("scratch")["client_pid"]
    mood.write_text(str(errno.ESTALE))
    eventually(lambda: node.mount("scratch")["client_pid"] != client, "another client")
    mood.write_text("ok")
    node.recovered("scratch", 1, "stale")
    assert pod.path("scratch", "who").read_text() == "one"


def test_a_mount_that_dies_at_once_every_time_is_tried_with_longer_pauses(
    node: Node, mood: Path
) -> None:
    mood.write_text("die")
    node.configure(sick(mood), bindfs(node.source("src", who="two"), "other"))
    node.start()
    status = node.wait("scratch", "failed")
    assert "it dies at once" in status["cause"]
    node.wait("other")
    tries = len(events(node, "client started"))
    time.sleep(0.5)
    assert len(events(node, "client started")) - tries <= 1
    mood.write_text("ok")
    assert request(node, Verb.REPLACE, "scratch").done, "an operator need not wait"
    node.wait("scratch")


def request(node: Node, verb: Verb, name: str) -> Reply:
    return ask(node.places.run_dir, Request(verb, name), 30)


def test_an_operator_replaces_probes_and_drains(served: tuple[Node, Pod], mood: Path) -> None:
    node, pod = served
    old = node.mount("scratch")["client_pid"]
    with pod.path("scratch", "who").open() as held:
        reply = request(node, Verb.REPLACE, "scratch")
        new = node.wait("scratch")["client_pid"]
        assert reply.done
        assert reply.text.startswith(f"client {old} replaced by client {new} in ")
        assert held.read() == "one", "what was open goes on through the old one"
    assert node.mount("scratch")["recoveries"] == {}
    probe = request(node, Verb.PROBE, "scratch")
    assert probe.done
    assert "ok in " in probe.text
    mood.write_text(str(errno.EIO))
    assert request(node, Verb.PROBE, "scratch") == Reply(False, "faulty EIO (Input/output error)")
    mood.write_text("ok")
    reply = request(node, Verb.DRAIN, "scratch")
    assert reply.done, reply.text
    assert [path.name for path in pod.path("scratch").iterdir()] == ["README"]
    assert node.clients() == []
    assert node.wait("scratch", "absent", drained=True)["cause"].startswith("it was drained")
    node.stop(signal.SIGKILL)
    node.start()
    node.wait("scratch", "absent", drained=True)
    assert node.clients() == []
    assert node.document()["ready"], "as was asked"
    assert not request(node, Verb.PROBE, "scratch").done
    assert request(node, Verb.REPLACE, "scratch").done
    assert pod.path("scratch", "who").read_text() == "one"
    wrong = request(node, Verb.PROBE, "nope")
    assert (wrong.done, "configured are: scratch" in wrong.text) == (False, True)


def test_a_replacement_that_does_not_come_leaves_the_old_one_in_place(
    served: tuple[Node, Pod], mood: Path
) -> None:
    node, pod = served
    old = node.mount("scratch")["client_pid"]
    dying = node.directory / "dying"
    dying.write_text("die")
    # The next one reads another file: the one that serves goes on.
    mood.rename(node.directory / "kept")
    mood.symlink_to(dying)
    reply = request(node, Verb.REPLACE, "scratch")
    assert not reply.done
    assert "it dies at once" in reply.text
    mood.unlink()
    (node.directory / "kept").rename(mood)
    assert node.wait("scratch")["client_pid"] == old
    assert pod.path("scratch", "who").read_text() == "one"


@contextmanager
def far(node: Node, mood: Path) -> Iterator[Path]:
    """A directory of the node that lies on somebody else's mount."""
    place = node.source("far")
    words = sick(mood, text="far away")["command"]
    client = subprocess.Popen([word.replace("{mountpoint}", str(place)) for word in words])
    try:
        eventually(lambda: (place / "who").exists(), "it is mounted")
        yield place
    finally:
        client.kill()
        client.wait(LIMIT_S)
        LinuxMounts().unmount(place, detach=True)


def test_a_kernel_mount_that_hangs_is_waited_for_until_somebody_decides(
    node: Node, mood: Path
) -> None:
    """As a hard NFS mount: nobody aborts it, nobody replaces it, it loses nothing."""
    home = {"name": "home", "driver": "bind", "path": "home"}
    with far(node, mood) as source:
        node.configure({**home, "source": str(source)})
        node.start()
        node.wait("home")
        who = node.pod().path("home", "who")
        assert who.read_text() == "far away"
        mood.write_text("hang")
        assert "the kernel waits for its server" in node.wait("home", "hung")["cause"]
        time.sleep(1)
        mood.write_text("ok")
        # It was the same mount all the time, and what waited in it was served at last.
        assert node.recovered("home", 1, "hung")["transitions"]["published"] == 2
        assert events(node, "hung connection aborted") == []
        mood.write_text("hang")
        node.wait("home", "hung")
        node.configure({**home, "source": str(node.source("src", who="near"))})
        node.recovered("home", 2, "hung")
        assert who.read_text() == "near"
        mood.write_text("ok")
