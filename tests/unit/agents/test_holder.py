# SPDX-License-Identifier: Apache-2.0
"""The holder as a real process: its commands, its survival, and what it says to nonsense."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from agents import holder, holder_client, holder_socket, holder_start
from agents.errors import Unavailable
from agents.holder_client import Ended, HeldClient, HolderClient, HolderRefused, connect
from agents.hostfs import HostFs
from agents.processes import ProcessKey, identify, signal_process

pytestmark = pytest.mark.processes
LIMIT_S = 10


@pytest.fixture(autouse=True)
def _reaped() -> Iterator[None]:
    """Every holder of a test ends with it, and Python complains of one that nobody reaped."""
    yield
    deadline = time.monotonic() + LIMIT_S
    while holder_start._started and time.monotonic() < deadline:
        holder_start.reap()
        time.sleep(0.01)


@pytest.fixture
def host(tmp_path: Path) -> HostFs:
    """No cgroup is touched at this level."""
    return HostFs(cgroup=tmp_path / "no-cgroups")


@pytest.fixture
async def held(tmp_path: Path, host: HostFs, nursery: trio.Nursery) -> AsyncIterator[HolderClient]:
    """A holder of this test, and an end to it and to all its clients."""
    try:
        yield await holder_start.find_or_start(nursery, tmp_path, host)
    finally:
        with trio.CancelScope(shield=True), trio.fail_after(LIMIT_S):
            again = await holder_start.find_or_start(nursery, tmp_path, host)
            await again.shutdown(kill=True)
            async for _ in again.exits:
                pass
            await holder_start.clear(tmp_path, host)


async def start(client: HolderClient, tmp_path: Path, *argv: str, **labels: str) -> HeldClient:
    return await client.start(argv, environment=labels, log=tmp_path / "log")


async def exit_of(client: HolderClient) -> HeldClient:
    with trio.fail_after(LIMIT_S):
        return await client.exits.receive()


async def kill(host: HostFs, pid: int) -> None:
    """kill -9, and wait until it is gone."""
    key = identify(host.proc, pid)
    assert key is not None
    assert signal_process(host.proc, key, signal.SIGKILL)
    with trio.fail_after(LIMIT_S):
        while identify(host.proc, pid) == key:
            await trio.sleep(0.005)


async def test_a_client_is_started_with_its_labels_and_its_log(
    held: HolderClient, tmp_path: Path
) -> None:
    client = await start(held, tmp_path, "sh", "-c", "echo $NODESHARE_MOUNT", NODESHARE_MOUNT="eos")
    ended = await exit_of(held)
    assert ended.key == client.key
    assert ended.ended == Ended(0)
    assert ended.labels["NODESHARE_MOUNT"] == "eos"
    assert (tmp_path / "log").read_text() == "eos\n"


@pytest.mark.parametrize(
    ("script", "code", "text"),
    [
        ("exit 7", 7, "ended with code 7"),
        ("kill -9 $$", -9, "killed by SIGKILL"),
    ],
)
async def test_how_it_ended_is_kept_until_it_is_forgotten(
    held: HolderClient, tmp_path: Path, script: str, code: int, text: str
) -> None:
    client = await start(held, tmp_path, "sh", "-c", script)
    ended = (await exit_of(held)).ended
    assert ended == Ended(code)
    assert ended.describe() == text
    assert [one.ended for one in await held.clients()] == [Ended(code)]
    await held.forget(client.key)
    assert await held.clients() == ()


async def test_a_running_client_cannot_be_forgotten(held: HolderClient, tmp_path: Path) -> None:
    client = await start(held, tmp_path, "sleep", "60")
    with pytest.raises(HolderRefused, match="still runs"):
        await held.forget(client.key)


async def test_a_signal_reaches_exactly_one_client(held: HolderClient, tmp_path: Path) -> None:
    first = await start(held, tmp_path, "sleep", "60")
    second = await start(held, tmp_path, "sleep", "60")
    await held.signal(first.key, signal.SIGTERM)
    assert (await exit_of(held)).key == first.key
    assert {one.key: one.ended for one in await held.clients()}[second.key] is None
    with pytest.raises(HolderRefused, match="no client"):
        await held.signal(ProcessKey(second.key.pid, second.key.start_ticks - 1), signal.SIGKILL)


async def test_a_command_that_cannot_be_started_is_an_error(
    held: HolderClient, tmp_path: Path
) -> None:
    with pytest.raises(HolderRefused, match="no-such-command"):
        await start(held, tmp_path, "no-such-command")
    with pytest.raises(HolderRefused, match="nowhere"):
        await held.start(["true"], environment={}, log=tmp_path / "nowhere" / "log")
    assert await held.clients() == ()


async def test_the_next_agent_finds_the_same_holder_and_its_clients(
    held: HolderClient, tmp_path: Path, host: HostFs, nursery: trio.Nursery
) -> None:
    client = await start(held, tmp_path, "sleep", "60")
    held.close()
    again = await holder_start.find_or_start(nursery, tmp_path, host)
    assert again.pid == held.pid
    assert [one.key for one in await again.clients()] == [client.key]


async def test_two_agents_hear_of_the_same_exit(
    held: HolderClient, tmp_path: Path, host: HostFs, nursery: trio.Nursery
) -> None:
    other = await holder_start.find_or_start(nursery, tmp_path, host)
    await start(held, tmp_path, "true")
    assert (await exit_of(held)).key == (await exit_of(other)).key


async def test_clients_outlive_a_killed_holder_and_are_adopted(
    held: HolderClient, tmp_path: Path, host: HostFs, nursery: trio.Nursery
) -> None:
    # Its own child inherits the environment, and must not be taken for a client.
    script = "sleep 60 & wait"
    client = await start(held, tmp_path, "sh", "-c", script, NODESHARE_MOUNT="eos")
    await kill(host, held.pid)
    with pytest.raises(trio.EndOfChannel):
        await held.exits.receive()
    with pytest.raises(Unavailable):
        await held.clients()
    again = await holder_start.find_or_start(nursery, tmp_path, host)
    assert again.pid != held.pid
    assert await again.clients() == (client,)
    await again.signal(client.key, signal.SIGTERM)
    assert (await exit_of(again)).ended == Ended(None)
    os.killpg(client.key.pid, signal.SIGKILL)  # its child leads no session, and is nobody's


async def test_a_new_holder_leaves_the_clients_of_another_socket_alone(
    held: HolderClient, tmp_path: Path, host: HostFs, nursery: trio.Nursery
) -> None:
    await start(held, tmp_path, "sleep", "60")
    elsewhere = tmp_path / "elsewhere"
    other = await holder_start.find_or_start(nursery, elsewhere, host)
    try:
        assert await other.clients() == ()
    finally:
        await other.shutdown()
        await holder_start.clear(elsewhere, host)


async def test_sigterm_ends_the_holder_and_no_client(
    held: HolderClient, tmp_path: Path, host: HostFs, nursery: trio.Nursery
) -> None:
    client = await start(held, tmp_path, "sleep", "60")
    key = identify(host.proc, held.pid)
    assert key is not None
    signal_process(host.proc, key, signal.SIGTERM)
    with trio.fail_after(LIMIT_S), pytest.raises(trio.EndOfChannel):
        await held.exits.receive()
    assert identify(host.proc, client.key.pid) == client.key
    again = await holder_start.find_or_start(nursery, tmp_path, host)
    assert [one.key for one in await again.clients()] == [client.key]


async def test_holder_and_clients_have_sessions_of_their_own(
    held: HolderClient, tmp_path: Path
) -> None:
    client = await start(held, tmp_path, "sleep", "60")
    sessions = {os.getsid(0), os.getsid(held.pid), os.getsid(client.key.pid)}
    assert len(sessions) == 3


async def test_clients_carry_the_mark_of_the_run_directory(
    tmp_path: Path, host: HostFs, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODESHARE_RUN_DIR", str(tmp_path))
    marked = await holder_start.find_or_start(nursery, tmp_path, host)
    try:
        client = await start(marked, tmp_path, "sleep", "60")
        assert client.labels["NODESHARE_RUN_DIR"] == str(tmp_path)
    finally:
        await marked.shutdown(kill=True)
        await holder_start.clear(tmp_path, host)


async def test_a_stale_socket_file_is_no_obstacle(
    tmp_path: Path, host: HostFs, nursery: trio.Nursery
) -> None:
    path = holder_start.socket_path(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stale:
        stale.bind(str(path))
    client = await holder_start.find_or_start(nursery, tmp_path, host)
    assert path.stat().st_mode & 0o777 == 0o600
    await client.shutdown()
    await holder_start.clear(tmp_path, host)
    assert list(tmp_path.iterdir()) == []


async def test_two_agents_that_start_at_once_share_one_holder(
    tmp_path: Path, host: HostFs, nursery: trio.Nursery
) -> None:
    found: list[HolderClient] = []

    async def find() -> None:
        found.append(await holder_start.find_or_start(nursery, tmp_path, host))

    async with trio.open_nursery() as both:
        both.start_soon(find)
        both.start_soon(find)
    assert found[0].pid == found[1].pid
    await found[0].shutdown()
    await holder_start.clear(tmp_path, host)


async def test_a_second_holder_ends_with_its_own_code(held: HolderClient, tmp_path: Path) -> None:
    path = holder_start.socket_path(tmp_path)
    argv = [sys.executable, "-m", "agents.holder", "--socket", str(path), "--proc", "/proc"]
    second = await trio.run_process(argv, check=False, capture_stderr=True)
    assert second.returncode == holder.EXIT_ALREADY_RUNNING
    assert b"another holder" in second.stderr
    assert await held.clients() == ()


async def test_another_version_is_told_apart_from_no_holder(
    held: HolderClient, tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holder_client, "PROTOCOLS", (98, 99))
    with pytest.raises(HolderRefused, match=r"another version.*drain --all"):
        await connect(nursery, holder_start.socket_path(tmp_path))
    monkeypatch.undo()
    assert await held.clients() == ()


GREETING = json.dumps({"id": 0, "op": "hello", "protocols": [1]}).encode()


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        pytest.param(b"\xff\xfe\x00", "not a valid request", id="no text"),
        pytest.param(b"[]", "JSON object", id="no object"),
        pytest.param(b"[" * 100_000, "not a valid request", id="deep"),
        pytest.param(b'{"op": "fly"}', "unknown op 'fly'", id="unknown"),
        pytest.param(b'{"op": ["list"]}', "unknown op", id="op of another type"),
        pytest.param(b'{"op": "start"}', "KeyError", id="nothing to start"),
        pytest.param(b'{"op": "start", "argv": [], "env": {}, "log": "/x/y"}', "/x/y", id="log"),
        pytest.param(b'{"op": "start", "argv": 5, "env": [], "log": 1}', "TypeError", id="types"),
        pytest.param(b'{"op": "start", "argv": ["a"], "env": [], "log": ""}', "Attrib", id="env"),
        pytest.param(b'{"op": "start", "argv": ["a\\u0000"], "env": {}}', "NUL", id="NUL"),
        pytest.param(
            b'{"op": "signal", "pid": 1, "start": 1, "signal": 9}', "no client", id="pid 1"
        ),
        pytest.param(
            b'{"op": "signal", "pid": [], "start": 1}', "TypeError", id="pid of another type"
        ),
        pytest.param(b'{"op": "hello", "protocols": 1}', "TypeError", id="protocols"),
    ],
)
async def test_nonsense_gets_an_answer_and_harms_nobody(
    held: HolderClient, tmp_path: Path, message: bytes, answer: str
) -> None:
    with trio.fail_after(LIMIT_S), raw(tmp_path) as peer:
        await peer.send(GREETING)
        assert json.loads(await peer.recv(1 << 20))["protocol"] == 1
        await peer.send(message)
        assert answer in json.loads(await peer.recv(1 << 20))["error"]
    assert await held.clients() == ()


async def test_nothing_is_done_before_hello(held: HolderClient, tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_S), raw(tmp_path) as peer:
        await peer.send(b'{"id": 1, "op": "shutdown", "kill": true}')
        assert "say hello first" in json.loads(await peer.recv(1 << 20))["error"]
    assert await held.clients() == ()


async def test_a_peer_that_never_reads_is_dropped_and_holds_up_nobody(
    held: HolderClient, tmp_path: Path
) -> None:
    with trio.fail_after(30), raw(tmp_path) as peer:
        await peer.send(GREETING)
        try:
            while True:
                await peer.send(b'{"id": 1, "op": "list"}' + b" " * 10_000)
                await held.clients()
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert await held.clients() == ()


def raw(tmp_path: Path) -> trio.socket.SocketType:
    """A peer that says what it likes."""
    blocking = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    blocking.connect(str(holder_start.socket_path(tmp_path)))
    return trio.socket.from_stdlib_socket(blocking)


async def test_a_holder_that_cannot_start_says_why(
    tmp_path: Path, host: HostFs, nursery: trio.Nursery
) -> None:
    holder_start.socket_path(tmp_path).mkdir()  # it cannot be replaced by a socket
    with pytest.raises(Unavailable, match=r"did not start: .*holder\.sock.*see"):
        await holder_start.find_or_start(nursery, tmp_path, host)
    holder_start.reap()


async def test_it_ends_when_its_directory_is_gone_and_it_holds_nobody(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    path = holder_start.socket_path(directory)
    argv = ["--socket", str(path), "--proc", "/proc", "--idle", "0.1"]
    process = subprocess.Popen([sys.executable, holder.__file__, *argv])
    with trio.fail_after(LIMIT_S):
        while not path.exists():
            await trio.sleep(0.01)
        held = await connect(nursery, path)
        client = await held.start(["sleep", "60"], environment={}, log=tmp_path / "log")
        shutil.rmtree(directory)
        await trio.sleep(0.5)
        assert process.poll() is None, "somebody is here, and somebody is held"
        await held.signal(client.key, signal.SIGKILL)
        await held.exits.receive()
        held.close()
        while process.poll() is None:
            await trio.sleep(0.01)
    assert process.returncode == 0


async def test_it_listens_anew_where_its_files_were_removed(
    held: HolderClient, tmp_path: Path, nursery: trio.Nursery
) -> None:
    path = holder_start.socket_path(tmp_path)
    path.unlink()
    Path(f"{path}.lock").unlink()
    with trio.fail_after(LIMIT_S):
        while not path.exists():
            await trio.sleep(0.01)
        assert (await connect(nursery, path)).pid == held.pid
        assert holder_socket.lock(str(path)) is None


async def test_where_the_next_one_serves_it_stays_away(tmp_path: Path) -> None:
    path = holder_start.socket_path(tmp_path)
    argv = ["--socket", str(path), "--proc", "/proc", "--idle", "0.1"]
    process = subprocess.Popen([sys.executable, holder.__file__, *argv])
    with trio.fail_after(LIMIT_S):
        while not path.exists():
            await trio.sleep(0.01)
        Path(f"{path}.lock").unlink()
        locked = holder_socket.lock(str(path))
        assert locked is not None
        path.unlink()
        while process.poll() is None:  # of no use any more
            await trio.sleep(0.01)
    os.close(locked)
    assert not path.exists()


async def test_what_belongs_to_the_next_one_is_not_cleared(
    held: HolderClient, tmp_path: Path, host: HostFs, nursery: trio.Nursery
) -> None:
    with trio.fail_after(LIMIT_S):
        await holder_start.clear(tmp_path, host)
        assert (await connect(nursery, holder_start.socket_path(tmp_path))).pid == held.pid


def test_it_imports_little() -> None:
    """It must stay small: of ours only what is as small, no site-packages, none of the heavy
    standard library."""
    code = f"import sys, runpy; runpy.run_path({holder.__file__!r}); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    heavy = {"asyncio", "dataclasses", "inspect", "logging", "pathlib", "subprocess", "threading"}
    assert not heavy & set(loaded)
    ours = {name.removeprefix("agents.") for name in loaded if name.startswith("agents.")}
    assert ours == {
        *("holder_agent", "holder_descriptors", "holder_runtimes", "holder_seccomp"),
        "holder_socket",
        *("passing", "seccomp_notify", "seccomp_slots"),
    }


def cgroup_tree(root: Path, *hierarchies: str) -> Path:
    for name in hierarchies:
        directory = root / name
        directory.mkdir(parents=True)
        (directory / "cgroup.procs").touch()
    return root


def test_on_cgroup_v2_it_gets_one_group(tmp_path: Path) -> None:
    root = cgroup_tree(tmp_path / "cgroup", ".")
    (group,) = holder_start.move_to_own_cgroups(root, tmp_path / "holder.sock", 42)
    assert group.parent == root
    assert group.name.startswith("nodeshare-holder-")
    assert (group / "cgroup.procs").read_text() == "42"


def test_on_cgroup_v1_it_gets_a_group_in_every_hierarchy_that_needs_no_set_up(
    tmp_path: Path,
) -> None:
    root = cgroup_tree(tmp_path / "cgroup", "memory", "cpuset", "unified")
    (root / "cpu").symlink_to("memory")
    groups = holder_start.move_to_own_cgroups(root, tmp_path / "holder.sock", 42)
    assert {group.parent.name for group in groups} == {"memory", "unified"}


def test_without_cgroups_it_stays_where_it_is(tmp_path: Path) -> None:
    assert holder_start.move_to_own_cgroups(tmp_path / "no", tmp_path / "holder.sock", 42) == ()


async def test_one_with_a_place_of_its_own_is_only_looked_for(
    tmp_path: Path, host: HostFs, nursery: trio.Nursery
) -> None:
    with pytest.raises(Unavailable, match=r"no holder at .*; start its pod.*node\.holder\.start"):
        await holder_start.find_or_start(nursery, tmp_path, host, start=False)
    assert list(tmp_path.iterdir()) == []


SLOW = "trap 'sleep 0.3; echo saved; exit 0' TERM; echo up; while :; do sleep 0.05; done"


@pytest.mark.parametrize(
    ("limit", "saved"),
    [pytest.param("5", True, id="in time"), pytest.param("0.1", False, id="late")],
)
async def test_where_its_end_is_theirs_it_asks_its_clients_first(
    tmp_path: Path, nursery: trio.Nursery, limit: str, saved: bool
) -> None:
    path, log = holder_start.socket_path(tmp_path), tmp_path / "log"
    argv = ["--socket", str(path), "--proc", "/proc", "--end-clients", limit]
    process = subprocess.Popen([sys.executable, holder.__file__, *argv])
    with trio.fail_after(LIMIT_S):
        while not path.exists():
            await trio.sleep(0.01)
        held = await connect(nursery, path)
        client = await held.start(["sh", "-c", SLOW], environment={}, log=log)
        while "up" not in log.read_text():
            await trio.sleep(0.01)
        process.terminate()
        while process.poll() is None:
            await trio.sleep(0.01)
        assert ("saved" in log.read_text()) is saved
        signal_process(Path("/proc"), client.key, signal.SIGKILL)
    assert process.returncode == 0
