# SPDX-License-Identifier: Apache-2.0
"""Speak to the holder: its commands as calls, its events as a channel. Does not start one
(`agents.holder_start`), and knows no client's meaning.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any, Protocol

import trio

from agents.errors import AgentError, Unavailable
from agents.holder import PROTOCOLS
from agents.processes import ProcessKey

_MAX_MESSAGE = 1 << 21
_REPLY_LIMIT_S = 5.0
_MAX_EVENTS = 1024


@dataclass(frozen=True, slots=True)
class Ended:
    """How a client ended: `code` as subprocess has it (negative: signal), None when not known."""

    code: int | None

    def describe(self) -> str:
        if self.code is None:
            return "ended"
        if self.code < 0:
            return f"killed by {Signals(-self.code).name}"
        return f"ended with code {self.code}"


@dataclass(frozen=True, slots=True)
class HeldClient:
    """A client of the holder. `labels`: its NODESHARE_ variables; `ended` None while it runs."""

    key: ProcessKey
    labels: Mapping[str, str]
    ended: Ended | None = None


class HolderRefused(AgentError):
    """The holder is there and said no."""


class Holder(Protocol):
    """What an agent asks of the holder. Every call raises Unavailable when it is gone, and
    HolderRefused when it says no.
    """

    @property
    def exits(self) -> trio.MemoryReceiveChannel[HeldClient]:
        """Clients that ended since; closed when the holder is gone."""

    async def start(
        self, argv: Sequence[str], *, environment: Mapping[str, str], log: Path
    ) -> HeldClient:
        """Start a command with these variables; its output is appended to `log`."""

    async def clients(self) -> tuple[HeldClient, ...]:
        """All that run, and those that ended and were not forgotten."""

    async def signal(self, key: ProcessKey, number: Signals) -> None:
        """To exactly this client; nothing happens when it has ended."""

    async def forget(self, key: ProcessKey) -> None:
        """Drop a client that ended."""

    async def shutdown(self, *, kill: bool = False) -> int:
        """End the holder; `kill` ends its clients too. How many clients were running."""


class HolderClient:
    """A connection to a real holder."""

    def __init__(self, path: Path, connection: trio.socket.SocketType) -> None:
        self._path, self._connection = path, connection
        self._send_exit, self._exits = trio.open_memory_channel[HeldClient](_MAX_EVENTS)
        self._waiting: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}
        self._number = 0
        self._gone = False
        self.pid = 0

    @property
    def exits(self) -> trio.MemoryReceiveChannel[HeldClient]:
        return self._exits

    async def start(
        self, argv: Sequence[str], *, environment: Mapping[str, str], log: Path
    ) -> HeldClient:
        answer = await self._ask("start", argv=list(argv), env=dict(environment), log=str(log))
        return _client(answer["client"])

    async def clients(self) -> tuple[HeldClient, ...]:
        return tuple(_client(one) for one in (await self._ask("list"))["clients"])

    async def signal(self, key: ProcessKey, number: Signals) -> None:
        await self._ask("signal", pid=key.pid, start=key.start_ticks, signal=int(number))

    async def forget(self, key: ProcessKey) -> None:
        await self._ask("forget", pid=key.pid, start=key.start_ticks)

    async def shutdown(self, *, kill: bool = False) -> int:
        return int((await self._ask("shutdown", kill=kill))["running"])

    async def hello(self) -> None:
        """Agree on a protocol; an old holder is told apart from a dead one."""
        try:
            self.pid = int((await self._ask("hello", protocols=list(PROTOCOLS)))["pid"])
            seen = self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            if int.from_bytes(seen[:4], sys.byteorder) != self.pid:
                raise HolderRefused(
                    f"the holder at {str(self._path)!r} lives in another pid namespace: its "
                    "clients cannot be told apart from other processes",
                    remedy="hostPID: true in its pod and in the agent's",
                )
        except HolderRefused as error:
            if error.remedy is not None:
                raise
            raise HolderRefused(
                f"the holder at {str(self._path)!r} is of another version: {error.message}",
                remedy="take its mounts down and end it with the version that started it: "
                "nodeshare mounts drain --all",
            ) from error

    def close(self) -> None:
        """Hang up; the holder and its clients go on."""
        self._connection.close()

    async def receive(self) -> None:
        """Deliver replies and events until the holder is gone. Runs beside everything else."""
        try:
            while data := await self._connection.recv(_MAX_MESSAGE):
                self._deliver(json.loads(data))
        except (OSError, ValueError, trio.ClosedResourceError):
            pass  # gone, not a holder, or closed by us: all the same
        finally:
            self._gone = True
            self._connection.close()
            self._send_exit.close()
            for waiting in self._waiting.values():
                waiting.close()

    def _deliver(self, message: dict[str, Any]) -> None:
        if message.get("event") == "exited":
            try:
                self._send_exit.send_nowait(_client(message["client"]))
            except trio.WouldBlock:
                pass  # an event only wakes: `clients` tells the truth
        elif waiting := self._waiting.pop(message.get("id", 0), None):
            waiting.send_nowait(message)

    async def _ask(self, op: str, **arguments: object) -> dict[str, Any]:
        if self._gone:
            raise self._unavailable("is gone")
        self._number += 1
        send, receive = trio.open_memory_channel[dict[str, Any]](1)
        self._waiting[self._number] = send
        request = json.dumps({"id": self._number, "op": op, **arguments}).encode()
        try:
            with trio.fail_after(_REPLY_LIMIT_S):
                await self._connection.send(request)
                answer = await receive.receive()
        except trio.TooSlowError:
            raise self._unavailable(f"did not answer {op!r} in {_REPLY_LIMIT_S:g} s") from None
        except (OSError, trio.EndOfChannel, trio.ClosedResourceError) as error:
            raise self._unavailable("is gone") from error
        finally:
            self._waiting.pop(self._number, None)
        if "error" in answer:
            raise HolderRefused(str(answer["error"]))
        return answer

    def _unavailable(self, what: str) -> Unavailable:
        return Unavailable(f"the holder at {str(self._path)!r} {what}")


def _client(text: dict[str, Any]) -> HeldClient:
    ended = None if text["ended"] is None else Ended(text["ended"]["code"])
    return HeldClient(ProcessKey(text["pid"], text["start"]), text["labels"], ended)


async def connect(nursery: trio.Nursery, path: Path) -> HolderClient:
    """A connection to the holder that serves `path`; its reader runs in `nursery` until `close`.

    Raises Unavailable when there is none, HolderRefused when it is of another version.
    """
    connection = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        await connection.connect(str(path))
    except OSError as error:
        connection.close()
        raise Unavailable(f"no holder at {str(path)!r}: {error.strerror}") from error
    client = HolderClient(path, connection)
    nursery.start_soon(client.receive)
    try:
        await client.hello()
    except BaseException:
        client.close()
        raise
    return client
