# SPDX-License-Identifier: Apache-2.0
"""Calls of containers, whoever dies or hangs meanwhile: real filters, a real holder, and agents
that are killed, stopped, replaced, or deaf.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from agents import passing
from agents.errors import Unavailable
from agents.holder_client import HolderRefused
from agents.seccomp_connection import SeccompConnection
from agents.seccomp_slots import Slots
from tests.fakes import seccomp_program
from tests.fakes.seccomp_agent import STOPS_WHILE_WRITING
from tests.fakes.seccomp_node import AGENT, KERNEL, Node, Program, eventually

FAILS = os.strerror(38)  # ENOSYS


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """With a holder that listens."""
    node = Node(tmp_path)
    try:
        node.start_holder("--listen")
        yield node
    finally:
        node.end()


def test_without_an_agent_calls_continue_and_nothing_is_left(node: Node) -> None:
    program = node.program()
    program.until_answered(KERNEL)
    assert node.kept() == 1
    program.end()
    eventually(lambda: node.kept() == 0, "the descriptor is closed")


def test_an_agent_answers_and_is_told_whose_calls(node: Node) -> None:
    first = node.program("container-1")
    agent = node.agent()
    arrival = agent.arrival()
    assert arrival | {"token": 0} == {
        "token": 0,
        "fresh": False,
        "container_id": "container-1",
        "pid": first.process.pid,
        "container_pid": first.process.pid,
        "bundle": "/run/bundle",
        "annotations": {"io.kubernetes.cri.container-name": "main"},
        "metadata": "profile-1",
    }
    first.until_answered(AGENT)
    second = node.program("container-2")
    assert agent.arrival()["container_id"] == "container-2"
    second.until_answered(AGENT)
    first.end()
    second.end()
    eventually(lambda: node.kept() == 0, "the descriptors are closed")


def test_the_first_call_of_all_is_the_agents(node: Node) -> None:
    """As the first execve has to be held. Not so when the agent has no time for half a second."""
    agent = node.agent()
    node.program().until_answered(AGENT)
    agent.arrival()

    def asked_the_agent() -> bool:
        program = node.program(threads=1)
        answers: set[str] = set()
        while not answers:
            answers = set(program.answers())
        program.end()
        return agent.arrival()["fresh"] is True and answers == {AGENT}

    eventually(asked_the_agent, "a program that only the agent has answered")


def test_an_agent_that_is_killed_under_load_keeps_nobody(node: Node, soak: bool) -> None:
    programs = [node.program(f"container-{number}", threads=4) for number in range(3)]
    slowest_s = 0.0
    for round_ in range(100 if soak else 4):
        # Every other one has received calls, and not answered, at any moment.
        agent = node.agent(hold_s=0.02 * (round_ % 2))
        for one in programs:
            one.until_answered(AGENT)
        time.sleep(random.random() * 0.02)
        for one in programs:
            slowest_s = max(slowest_s, one.told()["slowest_s"])
        agent.signal(signal.SIGKILL)
        for one in programs:
            one.until_answered(KERNEL)
            slowest_s = max(slowest_s, one.told()["slowest_s"])
        agent.end()
    for one in programs:
        one.finish()
    assert slowest_s < (1 if soak else 10)  # a short run may have a busy machine


def test_an_agent_that_is_stopped_loses_its_calls_and_gets_them_back(node: Node) -> None:
    program = node.program(threads=4)
    agent = node.agent(hold_s=0.02)
    program.until_answered(AGENT)
    for _ in range(2):
        agent.signal(signal.SIGSTOP)
        program.until_answered(KERNEL)
        agent.signal(signal.SIGCONT)
        program.until_answered(AGENT)
    program.finish()
    assert "does not answer" in node.log.read_text()


def test_one_that_is_stopped_while_it_writes_to_a_caller_is_killed(node: Node) -> None:
    program = node.program(threads=1)
    agent = node.agent(hold_s=STOPS_WHILE_WRITING)
    eventually(lambda: agent.process.poll() is not None, "it is killed")
    assert agent.process.returncode == -signal.SIGKILL
    program.until_answered(KERNEL)
    program.finish()


def test_an_agent_that_does_not_read_what_it_is_sent_holds_nobody_up(node: Node) -> None:
    slots = Slots()
    deaf = SeccompConnection(node.path, slots)
    deaf.connect()
    try:
        programs = [node.program(f"container-{number}") for number in range(3)]
        for one in programs:
            one.until_answered(KERNEL)
            one.finish()
        assert slots.revoked
        for _ in range(2):  # what was sent before, and then that it is over
            with suppress(Unavailable):
                for arrival in deaf.receive():
                    os.close(arrival.descriptor)
        with pytest.raises(Unavailable):
            deaf.receive()
    finally:
        deaf.close()
        slots.close()


def test_a_newer_agent_takes_over_without_an_error(node: Node) -> None:
    program = node.program(threads=4)
    former = node.agent(hold_s=0.02)
    former.arrival()
    program.until_answered(AGENT)
    newer = node.agent()
    newer.arrival()
    assert "replaced" in iter(former.line, "")
    program.until_answered(AGENT)
    slots = Slots()
    third = SeccompConnection(node.path, slots)
    with pytest.raises(HolderRefused, match="another agent answers"):
        third.connect(replace=False)
    newer.end()
    program.until_answered(KERNEL)
    third.connect(replace=False)
    third.close()
    slots.close()
    program.finish()


def test_a_newer_agent_takes_over_from_one_that_is_stopped(node: Node) -> None:
    program = node.program()
    former = node.agent()
    program.until_answered(AGENT)
    former.signal(signal.SIGSTOP)
    node.agent().arrival()
    program.until_answered(AGENT)
    former.signal(signal.SIGCONT)
    program.until_answered(AGENT)
    program.finish()


def test_the_holder_is_killed_and_the_agent_goes_on(node: Node) -> None:
    """It hands what it has to the next one, which answers when the agent dies as well."""
    programs = [node.program(f"container-{number}") for number in range(3)]
    agent = node.agent(hold_s=0.01)
    for one in programs:
        one.until_answered(AGENT)
    for _ in range(2):
        node.kill_holder()
        for one in programs:
            one.until_answered(AGENT)
        node.start_holder()
        eventually(lambda: node.kept() == len(programs), "the descriptors are handed over")
    node.program("container-4").until_answered(AGENT)
    agent.signal(signal.SIGKILL)
    for one in programs:
        one.until_answered(KERNEL)
        one.finish()
    assert agent.process.wait(10) == -signal.SIGKILL


def test_the_holder_is_killed_while_no_agent_answers(node: Node) -> None:
    """Then calls fail, now and later: the one thing that is documented not to be survived."""
    program = node.program()
    program.until_answered(KERNEL)
    node.kill_holder()
    program.until_answered(FAILS)
    node.start_holder("--listen")
    program.until_answered(FAILS)
    program.finish()
    node.program("container-2").until_answered(KERNEL)


def test_a_holder_that_containers_depend_on_is_not_shut_down_as_unused(node: Node) -> None:
    program = node.program()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(str(node.path))
        answers = []
        for request in ({"op": "hello", "protocols": [1]}, {"op": "shutdown"}):
            peer.send(json.dumps(request).encode())
            answers.append(json.loads(peer.recv(1 << 20)))
    assert answers[0]["protocol"] == 1
    assert "calls of containers" in answers[1]["error"]
    program.until_answered(KERNEL)


HEAD = """
import sys; sys.path.insert(0, sys.argv[1])
import array, os, platform, socket, seccomp_program as program
descriptor = program.install(program.NUMBERS[platform.machine()][0])
"""
CALLER = (
    HEAD
    + """
connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
connection.connect(sys.argv[2])
text = sys.stdin.buffer.read()
socket.send_fds(connection, [text[:9]], [descriptor])
connection.sendall(text[9:])
os.close(descriptor)
if sys.argv[3] == "False":
    connection.close()
print(os.sched_get_priority_max(1), os.sched_get_priority_max(1))
"""
)
STORM = (
    HEAD
    + """
for number in range(int(sys.argv[3])):
    program.hand_over(sys.argv[2], "storm", os.dup(descriptor))
os.close(descriptor)
print(*[os.sched_get_priority_max(1) for _ in range(10)], flush=True)
sys.stdin.read()
"""
)


def child(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A program with a filter of its own that hands it over as it likes."""
    fakes = str(Path(seccomp_program.__file__).parent)
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code, fakes, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="latin-1",
    )


def connected(node: Node) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(str(node.seccomp))
    return connection


def test_nonsense_at_the_socket_costs_nothing(node: Node, tmp_path: Path) -> None:
    silent = [connected(node) for _ in range(600)]  # more than are listened to
    with (tmp_path / "file").open("w") as file:
        for text in (b"", b"\xff\x00", b"[]", b"[" * 100_000, b'{"state": 7, "pid": "x"}'):
            with connected(node) as connection:
                passing.send(connection, text or b"{", [file.fileno()] * 3)
        with connected(node) as connection, suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(64):
                connection.sendall(b" " * 65536)
    program = node.program()
    program.until_answered(KERNEL)
    for one in silent:
        one.close()
    assert node.kept() == 1
    program.finish()


ODD = {
    "no text": "\xff\x00",
    "half": '{"pid": 7, "state": {"id": "a"',
    "another kind": "[1, 2]",
    "other types": '{"pid": "x", "state": {"id": 5, "annotations": {"a": 7}}}',
    "more than one would keep": json.dumps(
        {"pid": 7, "state": {"id": "a", "annotations": {"a": "x" * 100_000, "b": "x" * 300_000}}}
    ),
}


@pytest.mark.parametrize("stays", [False, True])
def test_whatever_comes_with_a_descriptor_its_calls_are_answered(node: Node, stays: bool) -> None:
    """Also where the runtime stays and never says the rest."""
    callers = {name: child(CALLER, str(node.seccomp), str(stays)) for name in ODD}
    try:
        for name, one in callers.items():
            assert one.communicate(ODD[name], timeout=60)[0].split() == [KERNEL, KERNEL], name
    finally:
        for one in callers.values():
            one.kill()
            one.wait(60)
    eventually(lambda: node.kept() == 0, "the descriptors are closed")


def test_thousands_of_connections_and_descriptors(node: Node, soak: bool) -> None:
    count = 10_000 if soak else 2_000
    program = node.program(threads=1)
    agent = node.agent()
    program.until_answered(AGENT)
    with child(STORM, str(node.seccomp), str(count)) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            assert set(process.stdout.readline().split()) <= {AGENT, KERNEL}
            eventually(lambda: node.kept() == count + 1, "all are kept")
            assert set(program.answers()) <= {AGENT, KERNEL}
            agent.end()
            program.until_answered(KERNEL)
        finally:
            process.stdin.close()
            process.wait(60)
    eventually(lambda: node.kept() == 1, "all are closed")
    program.finish()


def test_only_our_user_may_connect(node: Node) -> None:
    """Whoever could, could have somebody else's calls answered as he likes."""
    connect = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    somebody = ["setpriv", "--reuid=12345", "--clear-groups", "/usr/bin/python3", "-c", connect]
    done = subprocess.run(
        [*somebody, str(node.seccomp)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr.splitlines()[-1].startswith("PermissionError")


def test_in_a_pod_of_its_own_it_listens_before_any_agent_is_there(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        f"node: {{run_dir: {tmp_path}/run, holder: {{start: false, seccomp_socket: true}}}}\n"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "agents", "run", "holder", "--config", str(config)]
    ) as process:
        try:
            socket_file = tmp_path / "run/seccomp.sock"
            eventually(socket_file.exists, "it listens")
            program = Program(socket_file, "container-1", threads=1)
            program.until_answered(KERNEL)
            program.end()
        finally:
            process.terminate()
            assert process.wait(60) == 0
    assert not socket_file.exists()
