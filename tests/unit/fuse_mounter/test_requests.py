# SPDX-License-Identifier: Apache-2.0
"""The socket on which an operator asks: who is answered, with what, and who is not waited for."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import trio

from agents.errors import AgentError, Unavailable
from fuse_mounter import requests
from fuse_mounter.requests import Reply, Request, Verb, ask, serve

LIMIT_S = 10


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "mounts").mkdir()
    return requests.socket_path(tmp_path)


async def handle(request: Request) -> Reply:
    if request.name == "wrong":
        raise AgentError("no mount is called 'wrong'", remedy="configured are: a")
    return Reply(True, f"{request.verb.value} {request.name}")


async def asked(path: Path, request: Request) -> Reply:
    return await trio.to_thread.run_sync(ask, path.parent.parent, request, LIMIT_S)


async def started(nursery: trio.Nursery, path: Path) -> None:
    nursery.start_soon(serve, path, handle)
    with trio.fail_after(LIMIT_S):
        while not path.exists():
            await trio.sleep(0.005)


async def test_a_request_gets_its_reply(nursery: trio.Nursery, path: Path) -> None:
    await started(nursery, path)
    assert path.stat().st_mode & 0o777 == 0o600
    for verb in Verb:
        assert await asked(path, Request(verb, "a")) == Reply(True, f"{verb.value} a")
    wrong = await asked(path, Request(Verb.PROBE, "wrong"))
    assert wrong == Reply(False, "no mount is called 'wrong'; configured are: a")


@pytest.mark.parametrize(
    "message", [b"\xff", b"[]", b"{}", b'{"verb": "fly", "name": "a"}', b'{"verb": []}']
)
async def test_nonsense_gets_an_answer(nursery: trio.Nursery, path: Path, message: bytes) -> None:
    await started(nursery, path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as blocking:
        blocking.connect(str(path))
        blocking.send(message)
        blocking.settimeout(LIMIT_S)
        answer = json.loads(await trio.to_thread.run_sync(blocking.recv, 1 << 16))
    assert answer["done"] is False
    assert "not a valid request" in answer["text"]
    assert (await asked(path, Request(Verb.PROBE, "a"))).done


async def test_who_says_nothing_and_goes_holds_up_nobody(nursery: trio.Nursery, path: Path) -> None:
    await started(nursery, path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.connect(str(path))
        assert (await asked(path, Request(Verb.PROBE, "a"))).done


async def test_a_stale_socket_is_no_obstacle_and_none_is_left(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stale:
        stale.bind(str(path))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, path, handle)
        await trio.sleep(0.05)
        assert (await asked(path, Request(Verb.DRAIN, "a"))).done
        nursery.cancel_scope.cancel()
    assert not path.exists()
    with pytest.raises(Unavailable, match=r"no agent answers.*start it"):
        ask(path.parent.parent, Request(Verb.PROBE, "a"))
