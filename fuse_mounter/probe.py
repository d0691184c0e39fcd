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
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from fuse_mounter import probe_process
from fuse_mounter.errands import Errands
from fuse_mounter.observed import Health

_UNSERVED = frozenset({errno.ENOTCONN, errno.ECONNABORTED, errno.ESHUTDOWN, errno.ENODEV})

#: So many of the last probes are told.
_PAST = 5


@dataclass(frozen=True, slots=True)
class Space:
    """What statvfs(3) says: bytes, those that are there for everybody; inodes, and free ones."""

    size: int
    available: int
    inodes: int
    inodes_free: int


@dataclass(frozen=True, slots=True)
class Answer:
    """`number`: the errno it answered with; 0 when all is well, and when there is no answer."""

    health: Health
    number: int = 0
    space: Space | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe that is finished, or has taken too long; `at` is on trio's clock. `good_at` is
    wall-clock time of the last good one, `space` what that one said; None: there was none.
    """

    answer: Answer
    seconds: float
    at: float
    good_at: float | None
    space: Space | None

    @property
    def health(self) -> Health:
        return self.answer.health


@dataclass(frozen=True, slots=True)
class Past:
    """How a probe ended; `at` is wall-clock time."""

    at: float
    health: Health
    seconds: float


class Prober:
    """Probes by the name of the staging directory, which means the same mount for ever."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._results: dict[str, Probe] = {}
        self._past: dict[str, deque[Past]] = {}
        self._out: set[str] = set()
        self._hurried: set[str] = set()
        # By file and isolated: what is not loaded need not be copied by each fork.
        self._errands = Errands([sys.executable, "-I", "-S", probe_process.__file__])

    def health(self) -> dict[str, Health]:
        return {name: probe.health for name, probe in self._results.items()}

    def last(self, name: str) -> Probe | None:
        return self._results.get(name)

    def past(self, name: str) -> tuple[Past, ...]:
        """The last few, oldest first."""
        return tuple(self._past.get(name, ()))

    def out(self, name: str) -> bool:
        """Whether a probe has not come back yet."""
        return name in self._out

    def due(self, name: str, every_s: float) -> bool:
        """Whether a probe may go out now: none is out, and the last one is old enough."""
        last = self._results.get(name)
        if name in self._out:
            return False
        hurried = name in self._hurried
        return hurried or last is None or trio.current_time() - last.at >= every_s

    def hurry(self, name: str) -> None:
        """The next one is due now."""
        self._hurried.add(name)

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
        self._hurried.discard(name)
        try:
            with trio.move_on_after(self.limit_s):
                await trio.lowlevel.wait_readable(answer)
            said = _read(answer)
            if said is not None and said.health is Health.HUNG:
                self._keep(name, said, started, news)
                await trio.lowlevel.wait_readable(answer)
                said = _read(answer)
        finally:
            self._out.discard(name)
            os.close(answer)
        if said is not None:
            self._keep(name, said, started, news)

    def keep_only(self, names: set[str]) -> None:
        """Forget mounts that are gone."""
        for name in self._results.keys() - names:
            del self._results[name]
            self._past.pop(name, None)
        self._hurried &= names

    def close(self) -> None:
        """End the process that asks; the next probe would start another."""
        self._errands.close()

    def _keep(self, name: str, said: Answer, started: float, news: Callable[[], None]) -> None:
        now = trio.current_time()
        past = self._past.setdefault(name, deque(maxlen=_PAST))
        past.append(Past(time.time(), said.health, now - started))
        before = self._results.get(name)
        good_at, space = (before.good_at, before.space) if before else (None, None)
        if said.health is Health.OK:
            good_at, space = time.time(), said.space
        self._results[name] = Probe(said, now - started, now, good_at, space)
        if before is None or (before.health, before.answer.number) != (said.health, said.number):
            news()

    def _send(self, path: Path) -> int:
        """Where the answer will be read. Raises OSError."""
        answer, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._errands.send(os.fsencode(path), theirs)
        except OSError:
            os.close(answer)
            raise
        finally:
            os.close(theirs)
        return answer


def _read(answer: int) -> Answer | None:
    """HUNG: nothing yet; None: the child ended without a word. An answer is an answer, also when we
    were asleep ourselves and see it late.
    """
    try:
        said = os.read(answer, probe_process.ANSWER.size)
    except BlockingIOError:
        return Answer(Health.HUNG)
    if len(said) < probe_process.ANSWER.size:
        return None
    number, *numbers = probe_process.ANSWER.unpack(said)
    if number == 0:
        return Answer(Health.OK, space=Space(*numbers))
    if number == errno.ESTALE:
        return Answer(Health.STALE, number)
    return Answer(Health.DEAD if number in _UNSERVED else Health.FAULTY, number)
