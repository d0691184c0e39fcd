# SPDX-License-Identifier: Apache-2.0
"""One run of one rule, whole: everything that must hold before the first file is looked at and as
long as it lasts, the walk, and what is kept for the next run.

It works in the calling thread, and a file system that hangs holds it up for ever: so an agent has
it done by a child process, which it ends when nothing moves any more.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from agents import mountinfo
from agents.errors import AgentError
from fuse_mounter.scratch import space
from fuse_mounter.scratch.clocks import Access, Reading, access_of, reading
from fuse_mounter.scratch.config import Clock, ScratchRule
from fuse_mounter.scratch.memory import Memory, Moment
from fuse_mounter.scratch.open_files import open_inodes
from fuse_mounter.scratch.outcome import Outcome
from fuse_mounter.scratch.place import Place
from fuse_mounter.scratch.private import SETTLES_S, Private, recalled
from fuse_mounter.scratch.purge import AHEAD_S, Order, Purge, Told
from fuse_mounter.scratch.walk import DEEPEST, Folder, mount_id, open_root

#: What is open is looked at again so often while files are removed.
_OPEN_S = 20.0
#: Whether it is still the same mount.
_SAME_S = 2.0
_PROGRESS_S = 0.2

#: Holds what lets one node alone work on the file system with this identity; what it yields is
#: called again and again, and raises AgentError when that is over.
Guard = Callable[[str], AbstractContextManager[Callable[[], None]]]


@dataclass(frozen=True, slots=True)
class Run:
    """`dry`: nothing is removed and nobody is told. `node`: who works, for the others. `if_due`:
    nothing is done when another run, of whichever node, was not long ago. `guard` None: the lock on
    the file system alone.
    """

    rule: ScratchRule
    place: Place
    proc: Path
    node: str
    dry: bool
    told: Told | None = None
    progress: Callable[[Outcome], None] = lambda _: None
    if_due: bool = False
    guard: Guard | None = None
    wall: Callable[[], float] = time.time

    async def run(self) -> Outcome:
        """Raises AgentError when nothing may be done here now, OSError when it cannot."""
        clock = self._clock(None)
        with opened(self.place, self.proc) as root:
            now = self.now()
            if self.dry:
                kept = recalled(root, self.rule.name) or Memory(self.rule.digest)
                memory = kept.usable(self.rule.digest, now, self.rule.longest_pause)
                return await _Work(self, root, memory, now, clock).done()
            private = Private(root)
            try:
                async with self._alone(private) as beat:
                    return await self._alone_with(root, private, now, beat)
            finally:
                private.close()

    def _clock(self, tried: Access | None) -> Reading:
        found = reading(self.rule, self.place.entry, tried)
        if found.problem is not None:
            raise AgentError(f"{self.rule.name}: {found.problem}")
        return found

    def now(self) -> Moment:
        """By both clocks."""
        boot = (self.proc / "sys/kernel/random/boot_id").read_text().strip()
        return Moment(self.wall(), boot, time.clock_gettime(time.CLOCK_BOOTTIME))

    @asynccontextmanager
    async def _alone(self, private: Private) -> AsyncIterator[Callable[[], None]]:
        network = access_of(self.place.entry) is Access.CACHED
        async with private.alone(self.node, SETTLES_S if network else 0.0) as heartbeat:
            if self.guard is None:
                yield heartbeat.beat
                return
            with self.guard(private.identity()) as held:

                def beat() -> None:
                    heartbeat.beat()
                    held()

                yield beat

    async def _alone_with(
        self, root: Folder, private: Private, now: Moment, beat: Callable[[], None]
    ) -> Outcome:
        private.check_clock(now.wall)
        rule = self.rule
        kept = private.recall(rule.name) or Memory(rule.digest)
        last = kept.last
        wrong = last is not None and (last.wall > now.wall + AHEAD_S or not now.agrees_with(last))
        memory = Memory(rule.digest) if wrong else kept.usable(rule.digest, now, rule.longest_pause)
        last = memory.last
        if self.if_due and last is not None and now.wall - last.wall < rule.every:
            return Outcome(armed=rule.armed, last_run=last.wall)
        # What is never asked for need not be tried.
        clock = self._clock(private.access() if rule.clock is Clock.USED else None)
        work = _Work(self, root, memory, now, clock, beat, only_counts=wrong)
        outcome = await work.done()
        if wrong:
            outcome.problem(
                "the clock of this node was set since the last run: nothing was removed this time, "
                "and all is announced anew"
            )
        beat()
        try:
            private.keep(rule.name, memory.after(now, work.told, rule.grace))
        except OSError as error:
            outcome.problem(f"what was announced cannot be remembered: {error.strerror}")
        return outcome


class _Work:
    """The walk, with what has to be looked at meanwhile."""

    def __init__(
        self,
        run: Run,
        root: Folder,
        memory: Memory,
        now: Moment,
        clock: Reading,
        beat: Callable[[], None] = lambda: None,
        *,
        only_counts: bool = False,
    ) -> None:
        self._run, self._root, self._memory, self._now = run, root, memory, now.wall
        self._beat, self._clock = beat, clock
        self._armed = run.rule.armed and not run.dry and not only_counts
        self._shown = self._looked = time.monotonic()
        self.told: dict[int, float] = {}

    async def done(self) -> Outcome:
        run, rule = self._run, self._run.rule
        outcome = Outcome(armed=self._armed, clock=self._clock.text)
        full = await self._full_since(outcome)
        counts = rule.clock is Clock.USED and self._clock.access is not Access.FROZEN
        mounts = run.place.mounts
        order = Order(rule, self._now, self._armed, self._memory, full, mounts, counts)
        opened = _Open(run.proc, run.place)
        work = Purge(order, self._root, run.proc, opened.holds, run.told, tells=not run.dry)
        work.outcome = outcome
        for wait_s in work.steps():
            await self._between(outcome, wait_s)
        _check_same(run.place, run.proc, self._root)
        self.told = work.told
        outcome.ran, outcome.last_run = True, self._now
        return outcome

    async def _full_since(self, outcome: Outcome) -> float | None:
        rule, keep = self._run.rule, self._run.rule.keep_free
        if keep is None:
            return None
        room = os.fstatvfs(self._root.descriptor)
        target = keep.target
        if isinstance(target, float):
            target = int(target * room.f_blocks * room.f_frsize)
        needed = target - room.f_bavail * room.f_frsize
        if needed <= 0:
            return None
        found: space.Ageing = {}
        mounts = self._run.place.mounts
        for grown in space.survey(self._root, self._run.proc, rule, self._now, mounts):
            found = grown
            await self._between(outcome, 0.0)
        return space.full_since(found, needed, self._now, keep.not_within, rule.most_files)

    async def _between(self, outcome: Outcome, wait_s: float) -> None:
        self._beat()
        now = time.monotonic()
        if now - self._looked >= _SAME_S:
            self._looked = now
            _check_same(self._run.place, self._run.proc, self._root)
        if now - self._shown >= _PROGRESS_S:
            self._shown = now
            self._run.progress(outcome)
            await trio.sleep(wait_s)
        elif wait_s:
            await trio.sleep(wait_s)


class _Open:
    """What is in use on this node, as of not long ago."""

    def __init__(self, proc: Path, place: Place) -> None:
        self._proc, self._entry = proc, place.entry
        self._inodes: frozenset[int] = frozenset()
        self._at: float | None = None

    def holds(self, inode: int) -> bool:
        now = time.monotonic()
        if self._at is None or now - self._at > _OPEN_S:
            self._inodes, self._at = open_inodes(self._proc, self._entry), now
        return inode in self._inodes


@contextmanager
def opened(place: Place, proc: Path) -> Iterator[Folder]:
    """The directory, when it lies on the very mount that the table told of."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * DEEPEST)), hard))
    root = open_root(place.base, place.folder)
    try:
        if mount_id(proc, root.descriptor) != place.entry.mount_id:
            raise _replaced(place)
        yield root
    finally:
        os.close(root.descriptor)


def _check_same(place: Place, proc: Path, root: Folder) -> None:
    """Whether the mount still answers and is the one that everybody sees: a client that died or was
    replaced meanwhile is not worked with any further.
    """
    os.fstat(root.descriptor)
    entry = mountinfo.covering(mountinfo.read(proc), place.path)
    if entry is None or entry.mount_id != place.entry.mount_id:
        raise _replaced(place)


def _replaced(place: Place) -> AgentError:
    return AgentError(
        f"{str(place.path)!r} lies on another mount than it just did",
        remedy="it was unmounted, replaced or mounted over; it is tried again later",
    )
