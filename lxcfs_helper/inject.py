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
from collections.abc import Callable, Collection, Iterator, Sequence
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
from lxcfs_helper.selection import Located, belongs

#: Each round reads what is there and does one thing; more are needed only while somebody
#: interferes.
_ROUNDS = 5
#: After work in a mount namespace was not done in time, nothing is tried there for so long; twice
#: as long after each further time, up to the second.
_PAUSE_S, _LONGEST_PAUSE_S = 30.0, 600.0
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


@dataclass(frozen=True, slots=True)
class _Pause:
    """Nothing is tried in a mount namespace until then, for this reason."""

    until: float
    length_s: float
    reason: str


class Injector:
    """The work in other mount namespaces. Blocking; for one worker thread at a time."""

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
        self._clock = clock
        self._verified: dict[str, tuple[bytes, tuple[Wish, ...]]] = {}
        self._pauses: dict[str, _Pause] = {}
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
        results = {wish.target: self._fulfil(located, wish) for wish in wanted}
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
            self._pauses.pop(located.container.id, None)

    def keep(self, container_ids: Collection[str]) -> None:
        """Forget what was seen of all other containers."""
        for known in (self._verified, self._pauses):
            for container_id in known.keys() - set(container_ids):
                del known[container_id]

    def _text(self, located: Located) -> bytes:
        """Empty: it is gone. Looking at the targets could hang on what others mounted there."""
        try:
            return self._host.of_pid(located.process.pid, "mountinfo").read_bytes()
        except OSError:
            return b""

    def _entries(self, text: bytes) -> tuple[MountEntry, ...]:
        if text != self._parsed[0]:
            self._parsed = text, mountinfo.parse(os.fsdecode(text))
        return self._parsed[1]

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
        pause = self._pauses.get(located.container.id)
        if pause is not None and self._clock() < pause.until:
            raise Unavailable(pause.reason)
        if place is not None and place.shared is not None and place.shared in self._shared_here():
            raise Unavailable(f"{place.mount_point} of the container is shared with the host")

    def _shared_here(self) -> frozenset[int]:
        """The peer groups of the host and of this agent: what is mounted in one appears there."""
        seen = (mountinfo.read(self._host.proc, pid) for pid in ("self", "1"))
        return frozenset(e.shared for entries in seen for e in entries if e.shared is not None)

    def _perform(self, located: Located, wish: Wish, step: Step) -> None:
        with self._pinned(located) as pidfd:
            try:
                self._enter(pidfd, wish, step)
            except NoAnswer as error:
                self._pause(located.container.id, str(error))
                raise

    def _pause(self, container_id: str, reason: str) -> None:
        last = self._pauses.get(container_id)
        length_s = _PAUSE_S if last is None else min(_LONGEST_PAUSE_S, 2 * last.length_s)
        self._pauses[container_id] = _Pause(self._clock() + length_s, length_s, reason)

    def _enter(self, pidfd: int, wish: Wish, step: Step) -> None:
        if step is Step.DETACH:
            self._namespaces.detach(pidfd, wish.target)
            return
        assert wish.source is not None
        mount = self._mounts.clone(wish.source)
        try:
            attributes = _WRITABLE if wish.writable else INERT
            self._mounts.set_attributes(mount, attributes, propagation=Propagation.PRIVATE)
            if step is Step.ATTACH:
                self._namespaces.attach(pidfd, mount, wish.target)
            elif self._beneath:
                self._namespaces.replace(pidfd, mount, wish.target)
            else:
                self._stack(pidfd, mount, wish.target)
        finally:
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
