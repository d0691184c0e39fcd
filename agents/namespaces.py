# SPDX-License-Identifier: Apache-2.0
"""Mount work inside another process's mount namespace: the seam, and the client of the process that
does it.

That process (`agents.namespace_process`) is a fresh interpreter, so it does not matter how many
threads this one has. Knows no container: the caller has checked who is behind a pidfd.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
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


class NoAnswer(Unavailable):
    """What was asked in a mount namespace was not done in time: what is mounted on the way to the
    target may be at fault. Asked again, it may take as long again."""


@dataclass(frozen=True, slots=True)
class Below:
    """A mount in our own namespace that others lie on: `depth` of them at `path`. `device` is that
    of its file system, in which nothing blocks."""

    path: str
    depth: int
    device: tuple[int, int]


class Namespaces(Protocol):
    """Mount work inside another process's mount namespace. Blocking, bounded (5 s); thread-safe.

    Every call raises OSError with the kernel's errno, or NoAnswer after the limit; at once, while
    an earlier request for the same process is still held up in the kernel. The caller
    has re-checked the identity of the process behind `pidfd`. A target is an absolute path as that
    process sees it; one that leads through a symbolic link is refused (ENOTDIR, ELOOP).
    """

    def prepare(self) -> None:
        """Whoever is asked next will not wait for something to be started. Raises OSError."""

    def attach(self, pidfd: int, mount: int, target: Path, *, beneath: bool = False) -> None:
        """Attach the detached mount descriptor `mount` at `target` there, on top or beneath the top
        mount."""

    def attach_all(self, pidfd: int, mounts: Mapping[Path, int]) -> None:
        """Attach each of these detached mounts on top at its target: in one go, which costs little
        more than one alone. What cannot be attached is passed over: whoever asked has to look."""

    def replace(self, pidfd: int, mount: int, target: Path) -> None:
        """Attach beneath the top mount at `target` and lazily detach that top: never a gap (kernel
        6.5)."""

    def detach(self, pidfd: int, target: Path) -> None:
        """Lazily unmount the top mount at `target` there."""

    def cover(
        self, pidfd: int, mount: int, target: Path, top: int, below: Below | None = None
    ) -> None:
        """Attach on top of exactly the mount with the id `top`, which must be the topmost there
        (else ESTALE); with `below`, a copy of what lies below, and on that the mount."""

    def close(self) -> None: ...


class NamespaceHelper:
    """`Namespaces` through one small process: started at the first request, and again by a request
    that finds it dead."""

    def __init__(self, proc: Path) -> None:
        self._proc = proc
        self._running: tuple[_Process, socket.socket] | None = None
        self._sending = threading.Lock()
        self._closed = False
        #: By process: where the answer to a request would come that was given up. Its child is in
        #: the kernel's uninterruptible sleep, and must not get company.
        self._given_up: dict[int, socket.socket] = {}

    @classmethod
    def start(cls, proc: Path = PROC) -> NamespaceHelper:
        """Ready to take requests. `proc` is where the host's procfs is found."""
        return cls(proc)

    @property
    def pid(self) -> int | None:
        """Of the process that runs now; None before the first request."""
        return None if self._running is None else self._running[0].pid

    def prepare(self) -> None:
        with self._sending:
            if not self._closed:
                self._socket()

    def attach(self, pidfd: int, mount: int, target: Path, *, beneath: bool = False) -> None:
        self._request({"do": "attach", "beneath": beneath}, target, pidfd, mount)

    def attach_all(self, pidfd: int, mounts: Mapping[Path, int]) -> None:
        targets = [str(target) for target in mounts]
        request = {"do": "attach_all", "targets": targets}
        self._request(request, Path(targets[0]), pidfd, *mounts.values())

    def replace(self, pidfd: int, mount: int, target: Path) -> None:
        self._request({"do": "replace"}, target, pidfd, mount)

    def detach(self, pidfd: int, target: Path) -> None:
        self._request({"do": "detach"}, target, pidfd)

    def cover(
        self, pidfd: int, mount: int, target: Path, top: int, below: Below | None = None
    ) -> None:
        request = {"do": "cover", "top": top, "below": None if below is None else asdict(below)}
        self._request(request, target, pidfd, mount)

    def close(self) -> None:
        """End the process: it leaves when nobody can send to it any more."""
        with self._sending:
            self._closed = True
            self._stop()
            while self._given_up:
                self._given_up.popitem()[1].close()

    def _request(self, request: Mapping[str, Any], target: Path, pidfd: int, *mount: int) -> None:
        message = {**request, "proc": str(self._proc), "target": str(target)}
        pid = processes.of_pidfd(self._proc, pidfd)
        if pid is None:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        self._refuse_while_held_up(pid)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with (
                theirs
            ):  # once it is sent, the other side alone holds it: its death is our end of file
                self._send(json.dumps(message).encode(), [theirs.fileno(), pidfd, *mount])
            answer = _receive(ours)
        except TimeoutError:
            with self._sending:
                self._given_up[pid] = ours.dup()
            raise NoAnswer("the mount namespace did not answer in time") from None
        finally:
            ours.close()
        if number := int(answer["errno"]):
            raise OSError(number, os.strerror(number), answer["path"] or str(target))

    def _refuse_while_held_up(self, pid: int) -> None:
        with self._sending:
            answer = self._given_up.get(pid)
            if answer is None:
                return
            poller = select.poll()
            poller.register(answer, select.POLLIN)
            if not poller.poll(0):
                raise NoAnswer("an earlier request is still held up in that mount namespace")
            self._given_up.pop(pid).close()

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
    """Raises TimeoutError when the child neither answers nor ends."""
    answer.settimeout(namespace_process.LIMIT_S + _GRACE_S)
    data = answer.recv(namespace_process.MAX_MESSAGE)
    if not data:
        raise NoAnswer("the namespace process ended, or did not get done in time")
    message: dict[str, Any] = json.loads(data)
    return message
