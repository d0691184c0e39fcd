# SPDX-License-Identifier: Apache-2.0
"""An agent's connection to a real holder; no container is there. `tests/kernel/test_seccomp_holder`
has those."""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio

from agents import holder, holder_client, hostfs, passing
from agents.errors import Unavailable
from agents.holder_client import HolderRefused
from agents.holder_start import socket_path
from agents.seccomp_connection import Replaced, SeccompConnection
from agents.seccomp_slots import Slots

pytestmark = pytest.mark.processes
LIMIT_S = 30
LONG_AGO = Path(__file__).parents[2] / "fixtures/holder_protocol_1.py"


class HolderProcess:
    """Of this directory; started by `start`."""

    def __init__(self, directory: Path) -> None:
        self.path, self.seccomp = socket_path(directory), hostfs.seccomp_socket(directory)
        self.log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *argv: str) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([sys.executable, *argv], stderr=log)
        eventually(lambda: self._accepts() or self.exit_code() is not None, "it listens")

    def start_own(self, *options: str) -> None:
        places = ("--socket", str(self.path), "--seccomp-socket", str(self.seccomp))
        self.start("-I", "-S", holder.__file__, *places, "--proc", "/proc", *options)

    def _accepts(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            return probe.connect_ex(str(self.path)) == 0

    def exit_code(self) -> int | None:
        assert self._process is not None
        return self._process.poll()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(LIMIT_S)


def eventually(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.005)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[HolderProcess]:
    process = HolderProcess(tmp_path)
    try:
        yield process
    finally:
        process.kill()


@pytest.fixture
def own(process: HolderProcess) -> HolderProcess:
    process.start_own()
    return process


@pytest.fixture
def slots() -> Iterator[Slots]:
    with closing(Slots()) as slots:
        yield slots


@pytest.fixture
def connection(own: HolderProcess, slots: Slots) -> Iterator[SeccompConnection]:
    with closing(SeccompConnection(own.path, slots)) as connection:
        yield connection


def readable(connection: SeccompConnection) -> None:
    assert select.select([connection.fileno()], [], [], LIMIT_S)[0]


def test_nobody_there(tmp_path: Path, slots: Slots) -> None:
    with (
        closing(SeccompConnection(tmp_path / "no.sock", slots)) as connection,
        pytest.raises(Unavailable, match=r"no holder at .*no\.sock"),
    ):
        connection.connect()


def test_a_holder_of_long_ago_is_told_apart(process: HolderProcess, slots: Slots) -> None:
    process.start(str(LONG_AGO), str(process.path))
    with (
        closing(SeccompConnection(process.path, slots)) as connection,
        pytest.raises(HolderRefused, match=r"older version, which cannot.*no common.*drain --all"),
    ):
        connection.connect()
    with pytest.raises(Unavailable, match="not connected"):
        connection.receive()


def test_it_listens_for_runtimes_when_an_agent_asks_and_from_then_on(
    own: HolderProcess, connection: SeccompConnection
) -> None:
    assert not own.seccomp.exists()
    connection.connect()
    assert own.seccomp.stat().st_mode & 0o777 == 0o600
    assert connection.receive() == []
    connection.close()
    with socket.socket(socket.AF_UNIX) as runtime:
        runtime.connect(str(own.seccomp))


def test_it_listens_at_once_when_it_is_told_to(process: HolderProcess) -> None:
    process.start_own("--listen")
    assert process.seccomp.exists()


async def test_it_is_not_shut_down_as_unused_while_an_agent_is_there(
    own: HolderProcess, connection: SeccompConnection, nursery: trio.Nursery
) -> None:
    connection.connect()
    with trio.fail_after(LIMIT_S):
        held = await holder_client.connect(nursery, own.path)
        with pytest.raises(HolderRefused, match="calls of containers"):
            await held.shutdown()
        connection.close()
        await held.clients()  # the holder has seen that
        await held.shutdown()
        while own.exit_code() is None:
            await trio.sleep(0.01)


def test_it_listens_anew_where_its_socket_was_removed(process: HolderProcess) -> None:
    process.start_own("--listen")
    process.seccomp.unlink()
    eventually(process.seccomp.exists, "it listens anew")
    with socket.socket(socket.AF_UNIX) as runtime:
        runtime.settimeout(LIMIT_S)
        runtime.connect(str(process.seccomp))
        runtime.sendall(b"{}")
        assert runtime.recv(1) == b""


def test_one_that_cannot_listen_says_so(process: HolderProcess, slots: Slots) -> None:
    process.seccomp.mkdir()
    process.start_own()
    with (
        closing(SeccompConnection(process.path, slots)) as connection,
        pytest.raises(HolderRefused, match=r"seccomp\.sock"),
    ):
        connection.connect()
    process.kill()
    process.path.unlink()
    process.start_own("--listen")
    eventually(lambda: process.exit_code() == 1, "it does not start")
    assert "seccomp.sock" in process.log.read_text().splitlines()[-1]


def test_a_newer_agent_takes_over_and_the_former_is_told(
    own: HolderProcess, connection: SeccompConnection
) -> None:
    connection.connect()
    with closing(Slots()) as others, closing(SeccompConnection(own.path, others)) as newer:
        with pytest.raises(HolderRefused, match="another agent answers already"):
            newer.connect(replace=False)
        newer.connect()
        readable(connection)
        with pytest.raises(Replaced):
            connection.receive()
        connection.close()
        assert newer.receive() == []


def test_who_hangs_up_may_receive_nothing_until_the_next_connection(
    connection: SeccompConnection, slots: Slots
) -> None:
    connection.connect()
    assert not slots.revoked
    connection.close()
    eventually(lambda: slots.revoked, "the descriptors are the holder's")
    connection.connect(replace=False)
    assert not slots.revoked


def test_a_holder_that_ends_is_noticed(own: HolderProcess, connection: SeccompConnection) -> None:
    connection.connect()
    own.kill()
    readable(connection)
    with pytest.raises(Unavailable, match="is gone"):
        connection.receive()
    with pytest.raises(Unavailable, match="no holder"):
        connection.connect()


def answer(peer: socket.socket, request: object, *descriptors: int) -> str:
    passing.send(peer, json.dumps(request).encode(), descriptors)
    return str(json.loads(peer.recv(1 << 20)).get("error"))


def test_nonsense_gets_an_answer_and_harms_nobody(
    own: HolderProcess, connection: SeccompConnection
) -> None:
    connection.connect()
    hello = {"op": "hello", "protocols": [2]}
    listen = {"op": "listen", "keeping": 0, "replace": False}
    null = os.open(os.devnull, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.settimeout(LIMIT_S)
        peer.connect(str(own.path))
        assert "say hello first" in answer(peer, listen, null)
        assert answer(peer, hello) == "None"
        assert "KeyError" in answer(peer, {"op": "listen"}, null)
        assert "IndexError" in answer(peer, listen)
        assert "no memory with slots" in answer(peer, listen, null)
        assert "listen first" in answer(peer, {"op": "keep", "token": 1, "state": {}}, null)
    os.close(null)
    assert connection.receive() == []


def test_what_it_needs_itself_is_not_what_its_clients_get(
    own: HolderProcess, connection: SeccompConnection, tmp_path: Path
) -> None:
    """Programs that look at every possible descriptor would take long."""
    connection.connect()
    log = tmp_path / "client.log"
    start = {"op": "start", "argv": ["sh", "-c", "ulimit -n; ulimit -Hn"], "env": {}}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.settimeout(LIMIT_S)
        peer.connect(str(own.path))
        assert answer(peer, {"op": "hello", "protocols": [1, 2]}) == "None"
        assert answer(peer, start | {"log": str(log)}) == "None"
        eventually(lambda: len(log.read_text().split()) == 2, "it says so")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert log.read_text().split() == [str(soft), str(hard)]
