# SPDX-License-Identifier: Apache-2.0
"""The agent's end of the seccomp socket: descriptors of containers, from the holder that keeps
them. Knows no system call, and answers none.

For one thread with an epoll loop of its own: only `connect` blocks, and not for long. When the
connection is lost, the agent goes on with the descriptors that it has (unless they were revoked),
connects again, and hands them to the holder that is there then.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents import passing
from agents.errors import AgentError, Unavailable
from agents.holder_client import HolderRefused
from agents.seccomp_slots import Slots

#: Since then a holder knows of seccomp.
_PROTOCOL = 2
_MAX_MESSAGE = 1 << 20
_LIMIT_S = 5.0
_SO_SNDBUFFORCE = 32  # socket(7); the module has no name for it
#: Of one `receive`, so that calls are answered in between.
_MOST_AT_ONCE = 64

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SeccompState:
    """What the OCI runtime says of a container, or of a process that is executed in one
    (ContainerProcessState of the runtime specification). What it does not say, or what cannot be
    understood, is empty.
    """

    container_id: str = ""
    #: The process that the filter was made for, and the container's first one, which is the same
    #: unless it is executed in a container that runs. In the runtime's pid namespace, the host's.
    #: None: not told.
    pid: int | None = None
    container_pid: int | None = None
    bundle: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    #: `listenerMetadata` of the profile.
    metadata: str = ""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A descriptor that is ours from now on: to receive from, and to close when poll says POLLHUP:
    nobody is left who could call. Take it out of an epoll first: it stays there, because the holder
    has a copy.

    `token`: its number, for `Slots.acquire`. `fresh`: it has just come from the runtime, and nobody
    answered any of its calls yet.
    """

    token: int
    descriptor: int
    state: SeccompState
    fresh: bool


class Replaced(AgentError):
    """Another agent has taken over: answer what was received, close all descriptors, hang up."""


class SeccompConnection:
    """A connection to the holder at this path. `slots` is the same in all connections of a
    process.
    """

    def __init__(self, path: Path, slots: Slots) -> None:
        self._path, self._slots = path, slots
        self._socket: socket.socket | None = None

    def connect(self, kept: Iterable[Arrival] = (), *, replace: bool = True) -> None:
        """Become the one who answers, and have the holder listen for runtimes from now on.

        `kept`: what an earlier connection brought and is still open; the holder gets what it does
        not have. `replace`: also where another agent answers, which is told to leave; else that is
        refused. Blocks for up to some seconds. Raises Unavailable when there is no holder, and
        HolderRefused when it is of an older version, or refuses.
        """
        self.close()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.settimeout(_LIMIT_S)
            connection.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * _MAX_MESSAGE)
            connection.connect(str(self._path))
            self._greet(connection)
            kept = tuple(kept)
            request = {"op": "listen", "replace": replace, "keeping": len(kept)}
            _ask(connection, request, [self._slots.descriptor])
            for one in kept:
                _send(connection, _keep(one), [one.descriptor])
            connection.setblocking(False)
        except (OSError, ValueError) as error:
            connection.close()
            reason = getattr(error, "strerror", None) or error
            raise Unavailable(f"no holder at {str(self._path)!r}: {reason}") from error
        except BaseException:
            connection.close()
            raise
        self._socket = connection

    def fileno(self) -> int:
        """To be polled for reading. Raises Unavailable without a connection."""
        return self._connected().fileno()

    def receive(self) -> Sequence[Arrival]:
        """What has arrived, which may be nothing; call it again when poll says so. Raises
        Unavailable when the connection is lost (see `Slots.revoked`), and Replaced.
        """
        connection = self._connected()
        arrivals: list[Arrival] = []
        try:
            while len(arrivals) < _MOST_AT_ONCE:
                arrivals += _arrived(*_next(connection))
        except BlockingIOError:
            pass
        except Replaced:
            for one in arrivals:  # the holder has them still
                os.close(one.descriptor)
            raise
        except (OSError, ValueError) as error:
            if not arrivals:  # else the next call finds the same
                self.close()
                raise Unavailable(f"the holder at {str(self._path)!r} is gone") from error
        if arrivals:
            _take(connection, arrivals)
        return arrivals

    def close(self) -> None:
        """Hang up: the holder answers from now on. Close the descriptors before."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        if self._socket is None:
            raise Unavailable(f"not connected to the holder at {str(self._path)!r}")
        return self._socket

    def _greet(self, connection: socket.socket) -> None:
        try:
            _ask(connection, {"op": "hello", "protocols": [_PROTOCOL]})
        except HolderRefused as error:
            raise HolderRefused(
                f"the holder at {str(self._path)!r} is of an older version, which cannot listen"
                f" for calls of containers: {error.message}",
                remedy="start its pod or service anew; one that an agent started ends with its"
                " mounts: nodeshare mounts drain --all",
            ) from error


def _take(connection: socket.socket, arrivals: Sequence[Arrival]) -> None:
    """Who gets descriptors and does not say that it has them is taken to hang."""
    with suppress(OSError):  # the next call finds the same
        _send(connection, {"op": "taken", "tokens": [one.token for one in arrivals]})


def _ask(connection: socket.socket, request: Message, descriptors: Sequence[int] = ()) -> Message:
    """Raises HolderRefused, and OSError."""
    _send(connection, {"id": 1, **request}, descriptors)
    while True:
        answer, _ = _next(connection)
        if "error" in answer:
            raise HolderRefused(str(answer["error"]))
        if "id" in answer:  # else an event, of clients that end
            return answer


def _send(connection: socket.socket, message: Message, descriptors: Sequence[int] = ()) -> None:
    passing.send(connection, json.dumps(message).encode(), descriptors)


def _next(connection: socket.socket) -> tuple[Message, int | None]:
    """Raises OSError when the connection is lost, ValueError when that is no holder."""
    data, found, _ = passing.receive(connection, _MAX_MESSAGE, 1)
    if not data:
        raise ConnectionResetError("closed")
    message = json.loads(data)
    return message, found[0] if found else None


def _keep(arrival: Arrival) -> Message:
    state = arrival.state
    return {
        "op": "keep",
        "token": arrival.token,
        "state": {
            "id": state.container_id,
            "pid": state.pid,
            "container_pid": state.container_pid,
            "bundle": state.bundle,
            "annotations": dict(state.annotations),
            "metadata": state.metadata,
        },
    }


def _arrived(message: Message, descriptor: int | None) -> Sequence[Arrival]:
    """Raises Replaced."""
    if message.get("event") == "replaced":
        raise Replaced("another agent answers the calls of containers now")
    if descriptor is None:  # about clients
        return ()
    told = message["state"]
    state = SeccompState(
        container_id=told["id"],
        pid=told["pid"],
        container_pid=told["container_pid"],
        bundle=told["bundle"],
        annotations=told["annotations"],
        metadata=told["metadata"],
    )
    return (Arrival(message["token"], descriptor, state, message["fresh"]),)
