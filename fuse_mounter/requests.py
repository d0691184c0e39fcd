# SPDX-License-Identifier: Apache-2.0
"""What an operator asks of the running agent: replace, probe or drain one mount. Both ends of a
unix socket that root alone may use. Knows no mount: the reconciler answers.

One SEQPACKET connection carries one request, `{"verb": …, "name": …}`, and one reply, `{"done": …,
"text": …}`, when the matter is settled or its limit is over. Nothing is left by either end.
"""

from __future__ import annotations

import enum
import json
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from agents.errors import AgentError, Unavailable

_MAX_MESSAGE = 1 << 16
#: A peer that connects and says nothing is hung up on.
_SAY_IT_S = 5.0
#: The agent answers within its own limits; this is for one that is stopped.
LIMIT_S = 150.0


class Verb(enum.Enum):
    """What may be asked for one mount."""

    REPLACE = "replace"  # a new client, put in the place of the old one without a gap
    PROBE = "probe"  # ask it now whether it answers
    DRAIN = "drain"  # take it away and keep it away, until it is replaced or configured anew


@dataclass(frozen=True, slots=True)
class Request:
    """`name` is that of a configured mount."""

    verb: Verb
    name: str


@dataclass(frozen=True, slots=True)
class Reply:
    """`text`: what came of it, or why not and what to do, in one line."""

    done: bool
    text: str


Handle = Callable[[Request], Awaitable[Reply]]


def socket_path(run_dir: Path) -> Path:
    """Where the agent of this run directory listens."""
    return run_dir / "mounts" / "requests"


def ask(run_dir: Path, request: Request, limit_s: float = LIMIT_S) -> Reply:
    """Ask the agent that runs; blocks until it answers. Raises Unavailable when none does."""
    path = socket_path(run_dir)
    message = json.dumps({"verb": request.verb.value, "name": request.name}).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(limit_s)
        try:
            connection.connect(str(path))
            connection.send(message)
            answer = connection.recv(_MAX_MESSAGE)
        except TimeoutError as error:
            raise Unavailable(f"the agent did not answer within {limit_s:g} s") from error
        except OSError as error:
            raise Unavailable(
                f"no agent answers at {str(path)!r}: {error.strerror}",
                remedy="start it, or name its configuration with --config",
            ) from error
    if not answer:
        raise Unavailable("the agent ended before it answered", remedy="see its log, and ask again")
    document = json.loads(answer)
    return Reply(bool(document["done"]), str(document["text"]))


async def serve(path: Path, handle: Handle) -> None:
    """Answer until cancelled. Raises OSError when the socket cannot be made."""
    path.unlink(missing_ok=True)  # whoever calls holds the agents' lock: it is stale
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    umask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(umask)
    listener.listen()
    accepting = trio.socket.from_stdlib_socket(listener)
    try:
        async with trio.open_nursery() as nursery:
            while True:
                connection, _ = await accepting.accept()
                nursery.start_soon(_answer, connection, handle)
    finally:
        accepting.close()
        path.unlink(missing_ok=True)


async def _answer(connection: trio.socket.SocketType, handle: Handle) -> None:
    with connection:
        try:
            with trio.fail_after(_SAY_IT_S):
                text = await connection.recv(_MAX_MESSAGE)
            if not text:
                return
            reply = await _while_there(connection, text, handle)
            if reply is None:
                return
            document = {"done": reply.done, "text": reply.text}
            await connection.send(json.dumps(document).encode())
        except (OSError, trio.TooSlowError):
            pass  # he has gone away, or says nothing


async def _while_there(
    connection: trio.socket.SocketType, text: bytes, handle: Handle
) -> Reply | None:
    """None: he who asked has gone, and nobody waits any more for what he wished."""
    reply: Reply | None = None
    async with trio.open_nursery() as nursery:

        async def answer() -> None:
            nonlocal reply
            reply = await _handled(text, handle)
            nursery.cancel_scope.cancel()

        nursery.start_soon(answer)
        with suppress(OSError):
            await connection.recv(1)  # a second word, or the end: both are his last
        nursery.cancel_scope.cancel()
    return reply


async def _handled(text: bytes, handle: Handle) -> Reply:
    try:
        document = json.loads(text)
        request = Request(Verb(document["verb"]), str(document["name"]))
    except (ValueError, TypeError, LookupError) as error:
        return Reply(False, f"not a valid request: {error}")
    try:
        return await handle(request)
    except AgentError as error:
        return Reply(False, str(error))
