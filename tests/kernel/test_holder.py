# SPDX-License-Identifier: Apache-2.0
"""The holder on a real machine: cgroups of its own, orphans, and an agent that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from agents import holder_start
from agents.holder_client import HolderClient
from agents.hostfs import PROC, HostFs
from agents.processes import identify, signal_process

HOST = HostFs()
LIMIT_S = 10


@pytest.fixture
async def held(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[HolderClient]:
    """A holder of this test; it, its clients and its cgroups are gone at the end."""
    try:
        yield await holder_start.find_or_start(nursery, tmp_path, HOST)
    finally:
        with trio.CancelScope(shield=True), trio.fail_after(LIMIT_S):
            again = await holder_start.find_or_start(nursery, tmp_path, HOST)
            await again.shutdown(kill=True)
            async for _ in again.exits:
                pass
            await holder_start.clear(tmp_path, HOST)
    path = holder_start.socket_path(tmp_path)
    assert holder_start.own_cgroups(HOST.cgroup, path) == []


def cgroups_of(pid: int) -> set[str]:
    lines = (PROC / str(pid) / "cgroup").read_text().splitlines()
    return {line for line in lines if ":cpuset:" not in line}


def test_holder_and_clients_leave_the_cgroups_of_the_agent(tmp_path: Path) -> None:
    """Whoever ends the agent's group, as systemd does with a unit, ends neither of them."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            held = await holder_start.find_or_start(nursery, tmp_path, HOST)
            try:
                client = await held.start(["sleep", "60"], environment={}, log=tmp_path / "log")
                check_groups(tmp_path, held.pid, client.key.pid)
            finally:
                await held.shutdown(kill=True)
                async for _ in held.exits:
                    pass
                await holder_start.clear(tmp_path, HOST)

    trio.run(main)


def check_groups(run_dir: Path, *pids: int) -> None:
    groups = holder_start.own_cgroups(HOST.cgroup, holder_start.socket_path(run_dir))
    if not groups:
        pytest.skip("no cgroup hierarchy can be written here")
    own = cgroups_of(os.getpid())
    for pid in pids:
        assert not own & cgroups_of(pid)
        assert all(groups[0].name in line for line in cgroups_of(pid))


async def test_a_client_that_puts_itself_into_the_background_stays_in_the_family(
    held: HolderClient, tmp_path: Path
) -> None:
    script = f"(setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 60' &) ; exit 0"
    await held.start(["sh", "-c", script], environment={}, log=tmp_path / "log")
    with trio.fail_after(LIMIT_S):
        await held.exits.receive()
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            await trio.sleep(0.01)
        pid = int((tmp_path / "pid").read_text())
        stat = (PROC / str(pid) / "stat").read_text()
        assert int(stat.rpartition(")")[2].split()[1]) == held.pid
        os.kill(pid, signal.SIGKILL)
        while (PROC / str(pid)).exists():  # reaped, not left as a zombie
            await trio.sleep(0.01)


STARTER = """
import sys, trio
from pathlib import Path
from agents.holder_start import find_or_start
from agents.hostfs import HostFs

async def main():
    async with trio.open_nursery() as nursery:
        holder = await find_or_start(nursery, Path(sys.argv[1]), HostFs())
        client = await holder.start(["sleep", "60"], environment={}, log=Path(sys.argv[1]) / "log")
        print(holder.pid, client.key.pid, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def test_a_container_that_claims_to_be_a_client_is_not_adopted(
    held: HolderClient, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """What is in its environment, a container says of itself; where it runs, the kernel says."""
    labels = {"NODESHARE_MOUNT": "a"}
    client = await held.start(["sleep", "60"], environment=labels, log=tmp_path / "l")
    path = holder_start.socket_path(tmp_path)
    claims = {**os.environ, "NODESHARE_HOLDER": str(path), "NODESHARE_MOUNT": "a"}
    wraps = (["unshare", "--mount"], ["setpriv", "--reuid=12345", "--clear-groups"])
    pretenders = [subprocess.Popen([*wrap, "sleep", "60"], env=claims) for wrap in wraps]
    try:
        for one in pretenders:
            await until_named(one.pid, "sleep")
        key = identify(PROC, held.pid)
        assert key is not None
        signal_process(PROC, key, signal.SIGKILL)
        again = await holder_start.find_or_start(nursery, tmp_path, HOST)
        assert [one.key for one in await again.clients()] == [client.key]
    finally:
        for one in pretenders:
            one.kill()
            one.wait(LIMIT_S)


async def test_a_client_that_acts_for_its_callers_is_adopted(
    held: HolderClient, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """A file server goes from one user to the next; when its holder dies it may be anybody."""
    work = "import os, time; os.seteuid(65534); print('somebody', flush=True); time.sleep(60)"
    client = await held.start(
        [sys.executable, "-I", "-S", "-c", work], environment={}, log=tmp_path / "log"
    )
    with trio.fail_after(LIMIT_S):
        while "somebody" not in (tmp_path / "log").read_text():
            await trio.sleep(0.01)
    key = identify(PROC, held.pid)
    assert key is not None
    signal_process(PROC, key, signal.SIGKILL)
    again = await holder_start.find_or_start(nursery, tmp_path, HOST)
    assert [one.key for one in await again.clients()] == [client.key]


async def test_what_a_client_let_go_of_is_not_taken_for_it(
    held: HolderClient, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """As sshfs does with its ssh: an orphan with the client's environment."""
    script = "(sleep 60 & echo orphan) ; exec sleep 60"
    client = await held.start(["sh", "-c", script], environment={}, log=tmp_path / "log")
    with trio.fail_after(LIMIT_S):
        while "orphan" not in (tmp_path / "log").read_text():
            await trio.sleep(0.01)
    await until_named(client.key.pid, "sleep")
    key = identify(PROC, held.pid)
    assert key is not None
    signal_process(PROC, key, signal.SIGKILL)
    again = await holder_start.find_or_start(nursery, tmp_path, HOST)
    assert [one.key for one in await again.clients()] == [client.key]
    os.killpg(client.key.pid, signal.SIGKILL)  # the orphan as well: nobody else would


async def until_named(pid: int, name: str) -> None:
    with trio.fail_after(LIMIT_S):
        while (PROC / str(pid) / "comm").read_text().strip() != name:
            await trio.sleep(0.01)


async def test_an_agent_that_is_killed_with_its_whole_group_takes_nobody_along(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    agent = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert agent.stdout is not None
    holder_pid, client_pid = map(int, agent.stdout.readline().split())
    os.killpg(agent.pid, signal.SIGKILL)
    agent.wait(LIMIT_S)
    agent.stdout.close()
    held = await holder_start.find_or_start(nursery, tmp_path, HOST)
    assert held.pid == holder_pid
    assert [one.key for one in await held.clients()] == [identify(PROC, client_pid)]
    await held.shutdown(kill=True)
    async for _ in held.exits:
        pass
    await holder_start.clear(tmp_path, HOST)
