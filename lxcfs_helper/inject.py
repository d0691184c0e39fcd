# SPDX-License-Identifier: Apache-2.0
"""Put files over /proc and /sys of a running container, and take them away again.

What is there is read from the container's mountinfo and never remembered, so a new agent finds the
work of the old one. `decide` is pure; every step acts on a process that is pinned and checked to be
the container's at that moment. Knows no view: a target, and the file that belongs there.
"""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agents import mountinfo, processes
from agents.cgroups import Cgroups
from agents.errors import Unavailable
from agents.hostfs import HostFs
from agents.mountinfo import MountEntry
from agents.mounts import INERT, MountAttribute, Mounts, Propagation
from agents.namespaces import Namespaces, NoAnswer
from lxcfs_helper.files import is_ours
from lxcfs_helper.pauses import Pauses
from lxcfs_helper.selection import Located, belongs

#: Each round reads what is there and does one thing; more are needed only while somebody
#: interferes.
_ROUNDS = 5
#: What a target must lie in. On anything else a path can lead anywhere, or wait forever.
_KERNELS_OWN = ("proc", "sysfs")


class Step(enum.Enum):
    """What is to be done at one target."""

    NOTHING = "nothing"
    ATTACH = "attach"
    REPLACE = "replace"
    DETACH = "detach"
    FOREIGN = "foreign"


class Outcome(enum.Enum):
    """How it stands at one target afterwards."""

    SHOWN = "attached"
    ABSENT = "absent"
    FOREIGN = "covered by another mount"
    GONE = "gone"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Wish:
    """A target in the container and the file to show there; `source` None: none of ours.

    `device` and `root` are what mountinfo will say of it, `owner` the source of all that is ours.
    `writable`: the kernel itself decides what may be written there (triggers of pressure files).
    """

    target: Path
    source: Path | None
    owner: str
    device: tuple[int, int]
    root: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """How it stands, what had to be done for it, and why it failed (empty: it did not)."""

    outcome: Outcome
    steps: tuple[Step, ...] = ()
    reason: str = ""


def decide(stack: Sequence[MountEntry], wish: Wish) -> Step:
    """The next step at a target with this stack of mounts, bottom first."""
    if not stack:
        return Step.NOTHING if wish.source is None else Step.ATTACH
    top, below = stack[-1], stack[:-1]
    if not is_ours(top, wish.owner):
        return Step.FOREIGN
    if wish.source is None or (not _right(top, wish) and any(_right(e, wish) for e in below)):
        return Step.DETACH
    return Step.NOTHING if _right(top, wish) else Step.REPLACE


def next_step(entries: Sequence[MountEntry], wish: Wish) -> Step:
    """`decide`, by all mounts of the container. What is hidden there by a mount on the way counts
    for nothing, and what is not below the kernel's own file systems belongs to others."""
    place = holder(entries, wish.target)
    stack = mountinfo.at(entries, wish.target)
    if place is None or place.fstype not in _KERNELS_OWN:
        return Step.FOREIGN if stack or wish.source is not None else Step.NOTHING
    hidden = bool(stack) and stack[0].parent_id != place.mount_id
    return decide(() if hidden else stack, wish)


def holder(entries: Sequence[MountEntry], target: Path) -> MountEntry | None:
    """The mount in which the place of a target lies, below everything that is mounted there."""
    return mountinfo.covering(entries, target.parent)


class Injector:
    """The work in other mount namespaces. Blocking; for several worker threads, one a container."""

    def __init__(
        self,
        host: HostFs,
        cgroups: Cgroups,
        mounts: Mounts,
        namespaces: Namespaces,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._cgroups = cgroups
        self._mounts = mounts
        self._namespaces = namespaces
        self._beneath = mounts.features().beneath
        self._verified: dict[str, tuple[bytes, tuple[Wish, ...]]] = {}
        self._pauses = Pauses(clock)
        #: The last text and what it says: one container has many targets, and may have many mounts.
        self._parsed: tuple[bytes, tuple[MountEntry, ...]] = b"", ()
        self._forbidden = frozenset(
            filter(None, (_mount_namespace(host, pid) for pid in ("self", "1")))
        )

    def reconcile(self, located: Located, wishes: Sequence[Wish]) -> dict[Path, Result]:
        """Make every wish true. A container that ends meanwhile is normal: GONE.

        Where mountinfo is what it was when the same wishes were found true, they still are.
        """
        wanted = tuple(wishes)
        if self.stands(located, wanted):
            return {wish.target: Result(_STANDING[wish.source is not None]) for wish in wanted}
        begun = self._attach_all(located, wanted)
        entries = self._entries(self._text(located))
        results = {
            wish.target: Result(_STANDING[wish.source is not None], begun.get(wish.target, ()))
            if entries and next_step(entries, wish) is Step.NOTHING
            else self._fulfil(located, wish)
            for wish in wanted
        }
        if all(result.outcome in _STANDING.values() for result in results.values()):
            self._verify(located, wanted)
        return results

    def stands(self, located: Located, wishes: Sequence[Wish]) -> bool:
        """Whether all these wishes are known to be true; costs one reading of mountinfo."""
        known = self._verified.get(located.container.id)
        return known is not None and known == (self._text(located), tuple(wishes))

    def _verify(self, located: Located, wanted: tuple[Wish, ...]) -> None:
        """Remember a text by which all wishes are true: since each was made true, somebody may have
        undone it."""
        text = self._text(located)
        entries = self._entries(text)
        if all(next_step(entries, wish) is Step.NOTHING for wish in wanted):
            self._verified[located.container.id] = text, wanted
            self._pauses.end(located.container.id)

    def keep(self, container_ids: Collection[str]) -> None:
        """Forget what was seen of all other containers."""
        self._pauses.keep(container_ids)
        for container_id in {*self._verified} - set(container_ids):
            self._verified.pop(container_id, None)

    def _text(self, located: Located) -> bytes:
        """Empty: it is gone. Looking at the targets could hang on what others mounted there."""
        try:
            return self._host.of_pid(located.process.pid, "mountinfo").read_bytes()
        except OSError:
            return b""

    def _entries(self, text: bytes) -> tuple[MountEntry, ...]:
        known = self._parsed  # another thread may put its own there
        if text != known[0]:
            known = self._parsed = text, mountinfo.parse(os.fsdecode(text))
        return known[1]

    def _attach_all(
        self, located: Located, wanted: Sequence[Wish]
    ) -> Mapping[Path, tuple[Step, ...]]:
        """What is missing in a new container is attached in one go, because its program waits.
        What cannot be is left to be tried, and explained, one by one."""
        entries = self._entries(self._text(located))
        missing = [wish for wish in wanted if next_step(entries, wish) is Step.ATTACH]
        try:
            if len(missing) > 1:
                for wish in missing:
                    self._refuse(located, holder(entries, wish.target))
                with self._pinned(located) as pidfd, self._detached(missing) as mounts:
                    self._guarded(located, lambda: self._namespaces.attach_all(pidfd, mounts))
                    return dict.fromkeys(mounts, (Step.ATTACH,))
        except (OSError, Unavailable):
            pass
        return {}

    def _fulfil(self, located: Located, wish: Wish) -> Result:
        steps: list[Step] = []
        try:
            for _ in range(_ROUNDS):
                step = self._next(located, wish)
                if step is Step.NOTHING:
                    return Result(_STANDING[wish.source is not None], tuple(steps))
                if step is Step.FOREIGN:
                    return Result(Outcome.FOREIGN, tuple(steps))
                self._perform(located, wish, step)
                steps.append(step)
                if step is Step.REPLACE and not self._beneath:
                    return Result(Outcome.SHOWN, tuple(steps))
        except ProcessLookupError:
            return Result(Outcome.GONE, tuple(steps))
        except (OSError, Unavailable) as error:
            if processes.identify(self._host.proc, located.process.pid) != located.process:
                return Result(Outcome.GONE, tuple(steps))
            return Result(Outcome.FAILED, tuple(steps), str(error))
        return Result(Outcome.FAILED, tuple(steps), "something there undoes it again and again")

    def _next(self, located: Located, wish: Wish) -> Step:
        """Raises ProcessLookupError when the container is gone, Unavailable when it must be left
        alone."""
        text = self._text(located)
        if not text:
            raise ProcessLookupError
        entries = self._entries(text)
        step = next_step(entries, wish)
        if step not in (Step.NOTHING, Step.FOREIGN):
            self._refuse(located, holder(entries, wish.target))
        return step

    def _refuse(self, located: Located, place: MountEntry | None) -> None:
        self._pauses.refuse(located.container.id)
        if place is not None and place.shared is not None and place.shared in self._shared_here():
            raise Unavailable(f"{place.mount_point} of the container is shared with the host")

    def _shared_here(self) -> frozenset[int]:
        """The peer groups of the host and of this agent: what is mounted in one appears there."""
        seen = (mountinfo.read(self._host.proc, pid) for pid in ("self", "1"))
        return frozenset(e.shared for entries in seen for e in entries if e.shared is not None)

    def _perform(self, located: Located, wish: Wish, step: Step) -> None:
        with self._pinned(located) as pidfd:
            self._guarded(located, lambda: self._enter(pidfd, wish, step))

    def _guarded(self, located: Located, work: Callable[[], None]) -> None:
        """Where it hangs nothing is tried for a while."""
        try:
            work()
        except NoAnswer as error:
            self._pauses.begin(located.container.id, str(error))
            raise

    def _enter(self, pidfd: int, wish: Wish, step: Step) -> None:
        if step is Step.DETACH:
            self._namespaces.detach(pidfd, wish.target)
            return
        with self._detached([wish]) as mounts:
            mount = mounts[wish.target]
            if step is Step.ATTACH:
                self._namespaces.attach(pidfd, mount, wish.target)
            elif self._beneath:
                self._namespaces.replace(pidfd, mount, wish.target)
            else:
                self._stack(pidfd, mount, wish.target)

    @contextmanager
    def _detached(self, wishes: Sequence[Wish]) -> Iterator[dict[Path, int]]:
        """Detached mounts of their sources, by target."""
        mounts: dict[Path, int] = {}
        try:
            for wish in wishes:
                assert wish.source is not None
                mount = mounts[wish.target] = self._mounts.clone(wish.source)
                attributes = _WRITABLE if wish.writable else INERT
                self._mounts.set_attributes(mount, attributes, propagation=Propagation.PRIVATE)
            yield mounts
        finally:
            for mount in mounts.values():
                os.close(mount)

    def _stack(self, pidfd: int, mount: int, target: Path) -> None:
        try:
            self._namespaces.attach(pidfd, mount, target)
        except FileNotFoundError:
            # Nothing can be mounted over a file that was deleted since it was attached: it has to
            # go first, and for a moment the host's is seen.
            self._namespaces.detach(pidfd, target)
            self._namespaces.attach(pidfd, mount, target)

    @contextmanager
    def _pinned(self, located: Located) -> Iterator[int]:
        """A pidfd of the container's process; raises ProcessLookupError when it is not that any
        more."""
        with processes.pinned(self._host.proc, located.process) as pidfd:
            pid = located.process.pid
            if pidfd is None or not belongs(self._cgroups.paths(pid), located.container):
                raise ProcessLookupError
            if _mount_namespace(self._host, str(pid)) in self._forbidden:
                raise Unavailable("it is in the mount namespace of the host or of this agent")
            yield pidfd


_WRITABLE = INERT & ~MountAttribute.RDONLY

_STANDING = {True: Outcome.SHOWN, False: Outcome.ABSENT}


def _right(entry: MountEntry, wish: Wish) -> bool:
    return entry.device == wish.device and entry.root == wish.root


def _mount_namespace(host: HostFs, pid: str) -> int | None:
    try:
        return (host.proc / pid / "ns/mnt").stat().st_ino
    except OSError:
        return None
