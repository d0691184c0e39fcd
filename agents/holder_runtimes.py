# SPDX-License-Identifier: Apache-2.0
"""The holder's socket for OCI runtimes: each container, and each process that is executed in one,
comes with a connection, one message (ContainerProcessState of the runtime specification), and the
descriptor by which its calls are answered. Does not know what becomes of that.

A runtime that finds nobody here cannot start its container, so: accept at once, understand what can
be understood, and never lose a descriptor, whatever was said with it.

Standard library only, and nothing of this package that is not: the holder loads this file.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from agents import passing
from agents.holder_descriptors import State, is_notify
from agents.holder_socket import bound, peer_of

_BACKLOG = 4096
#: Accepted in one turn, so that clients and calls are looked after in between.
_MOST_AT_ONCE = 64
_READ_SIZE = 1 << 16
_MAX_MESSAGE = 1 << 20
#: What is passed on has to fit into one message to the agent.
_MAX_STATE = 1 << 18
_MAX_DESCRIPTORS = 8
#: A runtime says what it has to say at once. Who does not, or is one too many, is taken at his
#: word so far; all the sooner where calls wait for an answer.
_PATIENCE_S, _PATIENCE_WITH_CALLS_S = 60.0, 0.5
_MOST_TALKING = 512


class _Talking:
    """A connection whose message is not complete."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.until = time.monotonic() + _PATIENCE_S
        self.text = bytearray()
        self.descriptors: list[int] = []


class Runtimes:
    """`watch` calls back when a descriptor is readable, until `unwatch`; `arrived` gets each
    descriptor, as its owner, and its state.
    """

    def __init__(
        self,
        path: str,
        proc: str,
        watch: Callable[[int, Callable[[], None]], None],
        unwatch: Callable[[int], None],
        arrived: Callable[[int, State], None],
    ) -> None:
        self._path, self._proc = path, proc
        self._watch, self._unwatch, self._arrived = watch, unwatch, arrived
        self._listener: socket.socket | None = None
        self._paused = False
        self._talking: dict[int, _Talking] = {}

    @property
    def busy(self) -> bool:
        """Whether `look` has to be called now and then."""
        return self._paused or bool(self._talking)

    def listen(self) -> None:
        """From now on, for our whole life. Raises OSError."""
        if not self._path:
            raise OSError("this holder was started without --seccomp-socket")
        if self._listener is None:
            self._listener = bound(self._path, socket.SOCK_STREAM, _BACKLOG)
            self._watch(self._listener.fileno(), self._accept)

    @property
    def is_removed(self) -> bool:
        """Whether somebody has removed the socket at which we listen."""
        return self._listener is not None and not os.path.exists(self._path)  # noqa: PTH110 -- no pathlib here

    def listen_anew(self) -> None:
        """Where it was removed. Raises OSError."""
        if self._listener is not None and self.is_removed:
            new = bound(self._path, socket.SOCK_STREAM, _BACKLOG)
            if not self._paused:
                self._unwatch(self._listener.fileno())
            self._listener.close()
            self._listener, self._paused = new, False
            self._watch(new.fileno(), self._accept)

    def look(self) -> None:
        """Whoever has had his time is through; and try again what failed for want of memory."""
        if self._paused and self._listener is not None:
            self._paused = False
            self._watch(self._listener.fileno(), self._accept)
        now = time.monotonic()
        for one in [one for one in self._talking.values() if one.until < now]:
            self._finish(one)

    def close(self) -> None:
        """At our end: a runtime that comes now is refused, and does not wait."""
        if self._listener is not None:
            self._listener.close()
            with suppress(FileNotFoundError):
                os.unlink(self._path)  # noqa: PTH108 -- no pathlib here

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(_MOST_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:
                # Our table of descriptors is full: who waits to be accepted would keep us busy.
                self._unwatch(self._listener.fileno())
                self._paused = True
                return
            self._greet(connection)

    def _greet(self, connection: socket.socket) -> None:
        if peer_of(connection)[1] != os.geteuid():
            connection.close()
            return
        connection.setblocking(False)
        if len(self._talking) >= _MOST_TALKING:
            self._finish(next(iter(self._talking.values())))
        one = self._talking[connection.fileno()] = _Talking(connection)
        self._watch(connection.fileno(), partial(self._hear, one))
        self._hear(one)  # most have said everything already

    def _hear(self, one: _Talking) -> None:
        try:
            data, descriptors, _ = passing.receive(one.connection, _READ_SIZE, _MAX_DESCRIPTORS)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        one.text += data
        for descriptor in descriptors:
            self._take(one, descriptor)
        if not data or len(one.text) > _MAX_MESSAGE or _is_whole(one.text):
            self._finish(one)

    def _take(self, one: _Talking, descriptor: int) -> None:
        if len(one.descriptors) < _MAX_DESCRIPTORS and is_notify(self._proc, descriptor):
            one.descriptors.append(descriptor)
            one.until = min(one.until, time.monotonic() + _PATIENCE_WITH_CALLS_S)
        else:
            os.close(descriptor)

    def _finish(self, one: _Talking) -> None:
        del self._talking[one.connection.fileno()]
        self._unwatch(one.connection.fileno())
        one.connection.close()
        if one.descriptors:
            state = _understood(bytes(one.text))
            for descriptor in one.descriptors:
                self._arrived(descriptor, state)


def _is_whole(text: bytearray) -> bool:
    """For a runtime that says everything and stays."""
    if not text.rstrip().endswith(b"}"):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _understood(text: bytes) -> State:
    """What the agent is told; the keys are our protocol's."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = {}
    said = _mapping(said)
    container = _mapping(said.get("state"))
    annotations = _mapping(container.get("annotations"))
    state: State = {
        "id": _text(container.get("id")),
        "pid": _number(said.get("pid")),
        "container_pid": _number(container.get("pid")),
        "bundle": _text(container.get("bundle")),
        "annotations": {key: _text(value) for key, value in annotations.items()},
        "metadata": _text(said.get("metadata")),
    }
    if len(json.dumps(state)) > _MAX_STATE:
        print("a container with too many annotations: all are ignored", file=sys.stderr)  # noqa: T201 -- stderr is our log
        return {**state, "bundle": "", "annotations": {}, "metadata": ""}
    return state


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) and len(value) < _MAX_STATE else ""
