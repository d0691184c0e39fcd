# SPDX-License-Identifier: Apache-2.0
"""Holders and agents that come and go in every order, of every age, and with nothing to spare."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path

import pytest

from agents import holder_start
from agents.hostfs import PROC
from tests.fakes.mount_node import LIMIT_S, Node, Pod, bindfs, eventually

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture
def served(node: Node) -> tuple[Node, Pod]:
    """One published mount of a native client, and a pod that uses it."""
    node.configure(bindfs(node.source("src", who="one")))
    node.start()
    node.wait("scratch")
    return node, node.pod()


@pytest.fixture
def old_holder(node: Node) -> Iterator[subprocess.Popen[bytes]]:
    """One of long ago, which speaks protocol 1 alone."""
    node.places.run_dir.mkdir()
    path = holder_start.socket_path(node.places.run_dir)
    program = FIXTURES / "holder_protocol_1.py"
    process = subprocess.Popen(
        [sys.executable, program, path],
        start_new_session=True,
        env={**os.environ, "NODESHARE_RUN_DIR": str(node.directory)},
    )
    try:
        eventually(path.exists, "its socket")
        yield process
    finally:
        process.kill()
        process.wait(LIMIT_S)


def test_a_new_agent_gets_on_with_a_holder_of_long_ago(
    node: Node, old_holder: subprocess.Popen[bytes]
) -> None:
    node.configure(bindfs(node.source("src", who="one")))
    node.start()
    first = node.wait("scratch")["client_pid"]
    assert node.holders() == [], "it took the one that was there"
    who = node.pod().path("scratch", "who")
    os.kill(first, signal.SIGKILL)
    assert node.recovered("scratch", 1)["client_pid"] != first
    assert who.read_text() == "one"
    node.configure(bindfs(node.source("other", who="two")))
    eventually(lambda: who.read_text() == "two", "the new configuration")
    # Its clients outlive it, and the holder that comes next knows them.
    kept = node.wait("scratch")["client_pid"]
    old_holder.kill()
    old_holder.wait(LIMIT_S)
    eventually(node.holders, "a holder of today")
    assert node.wait("scratch")["client_pid"] == kept
    assert who.read_text() == "two"


def test_a_holder_of_tomorrow_is_left_alone_and_the_remedy_is_told(node: Node) -> None:
    node.places.run_dir.mkdir()
    with protocol_9(holder_start.socket_path(node.places.run_dir)) as asked:
        node.configure(bindfs(node.source("src", who="one")))
        node.start()

        def refused() -> str | None:
            reason = str(node.document().get("reason"))
            return reason if "another version" in reason else None

        reason = eventually(refused, "the reason")
        assert "spoken here [9]" in reason
        assert "nodeshare mounts drain --all" in reason
        assert node.holders() == [], "no second one beside it"
    assert set(asked) == {"hello"}, "it was asked for nothing but its version"


@contextmanager
def protocol_9(path: Path) -> Iterator[list[str]]:
    """Answers every hello with its own version; yields what it was asked."""
    asked: list[str] = []
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer:
                request = json.loads(peer.recv(1 << 16))
                asked.append(request["op"])
                error = f"no common protocol: asked for {request['protocols']}, spoken here [9]"
                peer.send(json.dumps({"id": request["id"], "error": error}).encode())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(LIMIT_S)


def test_they_die_in_every_order(served: tuple[Node, Pod], soak: bool) -> None:
    """While nobody is there to mend it, and then one after the other is."""
    orders = list(permutations(["agent", "holder", "client"]))
    for order in orders if soak else orders[::2]:
        die(served[0], order)
        assert served[1].path("scratch", "who").read_text() == "one"


def die(node: Node, order: tuple[str, ...]) -> None:
    """One after the other, at once; then everything is there again."""
    pids = {"holder": node.holder_pid(), "client": node.mount("scratch")["client_pid"]}
    for what in order:
        if what == "agent":
            node.stop(signal.SIGKILL)
        else:
            os.kill(pids[what], signal.SIGKILL)
    node.start()
    eventually(
        lambda: node.mount("scratch").get("client_pid") not in (None, pids["client"]), "a client"
    )
    node.wait("scratch")
    eventually(lambda: len(node.holders()) == 1, "one holder")
    assert len(node.clients()) == 1


def test_clients_never_hear_of_the_agents_end(served: tuple[Node, Pod]) -> None:
    """Not of its SIGTERM, not of its terminal's, not of its group's."""
    node, pod = served
    client = node.mount("scratch")["client_pid"]
    assert node.agent is not None
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        os.killpg(node.agent.pid, number)
    node.agent.wait(LIMIT_S)
    node.agent = None
    assert node.clients() == [client]
    assert pod.path("scratch", "who").read_text() == "one"


def test_a_full_table_of_descriptors_ends_neither_agent_nor_holder(
    served: tuple[Node, Pod],
) -> None:
    """What needs one waits; what is mounted goes on; nobody runs in circles."""
    node, pod = served
    assert node.agent is not None
    full = (node.agent.pid, node.holder_pid())
    limits = [resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in full]
    client = node.mount("scratch")["client_pid"]
    for pid, (_, hard) in zip(full, limits, strict=True):
        highest = max(int(one.name) for one in (PROC / str(pid) / "fd").iterdir())
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest // 2, hard))
    os.kill(client, signal.SIGKILL)
    path = str(holder_start.socket_path(node.places.run_dir))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as waiting:
        waiting.connect(path)
        before, since = cpu_s(full), time.monotonic()
        time.sleep(1)
        used = (cpu_s(full) - before) / (time.monotonic() - since)
        assert used < 0.5, "they wait"
    assert node.agent.poll() is None
    assert node.holder_pid() == full[1]
    for pid, limit in zip(full, limits, strict=True):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
    eventually(lambda: node.mount("scratch").get("client_pid") not in (None, client), "a client")
    node.wait("scratch")
    assert pod.path("scratch", "who").read_text() == "one"


def cpu_s(pids: tuple[int, ...]) -> float:
    """User and system time of these processes."""
    ticks = 0
    for pid in pids:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
