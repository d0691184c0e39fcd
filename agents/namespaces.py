# SPDX-License-Identifier: Apache-2.0
"""Mount work inside another process's mount namespace: the seam, and the client of the process that
does it.

That process (`agents.namespace_process`) is a fresh interpreter, so it does not matter how many
threads this one has. Knows no container: the caller has checked who is behind a pidfd.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import agents
from agents import command, namespace_process, processes
from agents.errors import Unavailable
from agents.hostfs import PROC

#: The child is ended at its own limit; what it might still say then arrives within this.
_GRACE_S = 1.0


class _Process(Protocol):
    """What is needed of a started child."""

    pid: int

    def poll(self) -> int | None: ...
    def kill(self) -> None: ...


class Namespaces(Protocol):
    """Mount work inside another process's mount namespace. Blocking, bounded (5 s); thread-safe.

    Every call raises OSError with the kernel's errno, or Unavailable after the limit. The caller
    has re-checked the identity of the process behind `pidfd`. A target is an absolute path as that
    process sees it; one that leads through a symbolic link is refused (ENOTDIR, ELOOP).
    """

    def attach(self, pidfd: int, mount: int, target: Path, *, beneath: bool = False) -> None:
        """Attach the detached mount descriptor `mount` at `target` there, on top or beneath the top
        mount."""

    def replace(self, pidfd: int, mount: int, target: Path) -> None:
        """Attach beneath the top mount at `target` and lazily detach that top: never a gap (kernel
        6.5)."""

    def detach(self, pidfd: int, target: Path) -> None:
        """Lazily unmount the top mount at `target` there."""

    def close(self) -> None: ...


class NamespaceHelper:
    """`Namespaces` through one small process: started at the first request, and again by a request
    that finds it dead."""

    def __init__(self, proc: Path) -> None:
        self._proc = proc
        self._running: tuple[_Process, socket.socket] | None = None
        self._sending = threading.Lock()
        self._closed = False

    @classmethod
    def start(cls, proc: Path = PROC) -> NamespaceHelper:
        """Ready to take requests. `proc` is where the host's procfs is found."""
        return cls(proc)

    @property
    def pid(self) -> int | None:
        """Of the process that runs now; None before the first request."""
        return None if self._running is None else self._running[0].pid

    def attach(self, pidfd: int, mount: int, target: Path, *, beneath: bool = False) -> None:
        self._request({"do": "attach", "beneath": beneath}, target, pidfd, mount)

    def replace(self, pidfd: int, mount: int, target: Path) -> None:
        self._request({"do": "replace"}, target, pidfd, mount)

    def detach(self, pidfd: int, target: Path) -> None:
        self._request({"do": "detach"}, target, pidfd)

    def close(self) -> None:
        """End the process: it leaves when nobody can send to it any more."""
        with self._sending:
            self._closed = True
            self._stop()

    def _request(self, request: Mapping[str, Any], target: Path, *descriptors: int) -> None:
        message = {**request, "proc": str(self._proc), "target": str(target)}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with (
                theirs
            ):  # once it is sent, the other side alone holds it: its death is our end of file
                self._send(json.dumps(message).encode(), [theirs.fileno(), *descriptors])
            answer = _receive(ours)
        if number := int(answer["errno"]):
            raise OSError(number, os.strerror(number), answer["path"] or str(target))

    def _send(self, data: bytes, descriptors: list[int]) -> None:
        with self._sending:
            if self._closed:
                raise Unavailable("the namespace process was closed")
            try:
                socket.send_fds(self._socket(), [data], descriptors)
            except ConnectionError:
                self._stop()
                socket.send_fds(self._socket(), [data], descriptors)
            except TimeoutError:
                raise Unavailable("the namespace process takes no request") from None

    def _socket(self) -> socket.socket:
        if self._running is None:
            self._running = _start()
        return self._running[1]

    def _stop(self) -> None:
        if self._running is None:
            return
        process, requests = self._running
        self._running = None
        requests.close()
        if process.poll() is not None:
            return
        pidfd = os.pidfd_open(process.pid)
        try:
            if not processes.wait_exit(pidfd, _GRACE_S):
                process.kill()
                processes.wait_exit(pidfd, _GRACE_S)
        finally:
            os.close(pidfd)
        process.poll()


def _start() -> tuple[_Process, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(namespace_process.LIMIT_S)
    with theirs:
        # The working directory is what `-m` searches first: our own package, and no other of that
        # name.
        process = command.start(
            [sys.executable, "-m", namespace_process.__name__, str(theirs.fileno())],
            cwd=Path(agents.__file__).parent.parent,
            pass_fds=(theirs.fileno(),),
            output=None,
        )
    return process, ours


def _receive(answer: socket.socket) -> dict[str, Any]:
    answer.settimeout(namespace_process.LIMIT_S + _GRACE_S)
    try:
        data = answer.recv(namespace_process.MAX_MESSAGE)
    except TimeoutError:
        raise Unavailable("the mount namespace did not answer in time") from None
    if not data:
        raise Unavailable("the namespace process ended, or did not get done in time")
    message: dict[str, Any] = json.loads(data)
    return message
