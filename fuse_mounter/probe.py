# SPDX-License-Identifier: Apache-2.0
"""Ask mounts whether they answer, without ever hanging: one statvfs in a child, one child a mount.

statvfs is the one call that a FUSE client must answer every time. A child that sleeps in the kernel
survives SIGKILL; it is left behind and ends when the connection is aborted or the server is back,
and until then no other is sent to that mount. The children are those of a small process of their
own (`probe_process`). Decides nothing.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from agents import command
from fuse_mounter import probe_process
from fuse_mounter.observed import Health

_UNSERVED = frozenset({errno.ENOTCONN, errno.ECONNABORTED, errno.ESHUTDOWN, errno.ENODEV})


@dataclass(frozen=True, slots=True)
class Probe:
    """A finished probe; `at` is on trio's clock."""

    health: Health
    seconds: float
    at: float


class Prober:
    """Probes by the name of the staging directory, which means the same mount for ever."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._results: dict[str, Probe] = {}
        self._out: set[str] = set()
        self._asking: tuple[command.Child, socket.socket] | None = None

    def health(self) -> dict[str, Health]:
        return {name: probe.health for name, probe in self._results.items()}

    def last(self, name: str) -> Probe | None:
        return self._results.get(name)

    def due(self, name: str, every_s: float) -> bool:
        """Whether a probe may go out now: none is out, and the last one is old enough."""
        last = self._results.get(name)
        return name not in self._out and (last is None or trio.current_time() - last.at >= every_s)

    async def ask(self, name: str, path: Path, news: Callable[[], None]) -> None:
        """Probe, and keep the result; `news` is called when it tells something new. Lasts until the
        mount answers, be it long after the limit. Never twice at once.
        """
        started = trio.current_time()
        try:
            answer = self._send(path)
        except OSError:
            return  # no child can be started: that says nothing about the mount
        self._out.add(name)
        try:
            with trio.move_on_after(self.limit_s):
                await trio.lowlevel.wait_readable(answer)
            health = _read(answer)
            if health is Health.HUNG:
                self._keep(name, health, started, news)
                await trio.lowlevel.wait_readable(answer)
                health = _read(answer)
        finally:
            self._out.discard(name)
            os.close(answer)
        if health is not None:
            self._keep(name, health, started, news)

    def keep_only(self, names: set[str]) -> None:
        """Forget mounts that are gone."""
        for name in self._results.keys() - names:
            del self._results[name]

    def close(self) -> None:
        """End the process that asks; the next probe would start another."""
        if self._asking is not None:
            child, requests = self._asking
            self._asking = None
            requests.close()
            command.end(child)

    def _keep(self, name: str, health: Health, started: float, news: Callable[[], None]) -> None:
        now = trio.current_time()
        before = self._results.get(name)
        self._results[name] = Probe(health, now - started, now)
        if before is None or before.health is not health:
            news()

    def _send(self, path: Path) -> int:
        """Where the answer will be read. Raises OSError."""
        answer, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            try:
                socket.send_fds(self._requests(), [os.fsencode(path)], [theirs])
            except ConnectionError:  # it was killed: once more, with a new one
                self.close()
                socket.send_fds(self._requests(), [os.fsencode(path)], [theirs])
        except OSError:
            os.close(answer)
            raise
        finally:
            os.close(theirs)
        return answer

    def _requests(self) -> socket.socket:
        if self._asking is None:
            self._asking = _start()
        return self._asking[1]


def _start() -> tuple[command.Child, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with theirs:
        # By file and isolated: what is not loaded need not be copied by each fork.
        argv = [sys.executable, "-I", "-S", probe_process.__file__, str(theirs.fileno())]
        try:
            child = command.start(argv, pass_fds=[theirs.fileno()])
        except OSError:
            ours.close()
            raise
    return child, ours


def _read(answer: int) -> Health | None:
    """HUNG: nothing yet; None: the child ended without a word. An answer is an answer, also when we
    were asleep ourselves and see it late.
    """
    try:
        said = os.read(answer, 1)
    except BlockingIOError:
        return Health.HUNG
    if not said:
        return None
    if said[0] == 0:
        return Health.OK
    return Health.DEAD if said[0] in _UNSERVED else Health.FAULTY
