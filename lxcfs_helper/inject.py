# SPDX-License-Identifier: Apache-2.0
"""Put files over /proc and /sys of a running container, and take them away again.

What is there is read from the container's mountinfo and never remembered, so a new agent finds the
work of the old one. `decide` is pure; every step acts on a process that is pinned and checked to be
the container's at that moment. Knows no view: a target, and the file that belongs there.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agents import mountinfo, processes
from agents.cgroups import Cgroups
from agents.errors import Unavailable
from agents.hostfs import HostFs
from agents.mountinfo import MountEntry
from agents.mounts import INERT, Mounts, Propagation
from agents.namespaces import Namespaces
from lxcfs_helper.files import is_ours
from lxcfs_helper.selection import Located, belongs

#: Each round reads what is there and does one thing; more are needed only while somebody
#: interferes.
_ROUNDS = 5


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
    """

    target: Path
    source: Path | None
    owner: str
    device: tuple[int, int]
    root: str


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


class Injector:
    """The work in other mount namespaces. Blocking; for one worker thread at a time."""

    def __init__(
        self, host: HostFs, cgroups: Cgroups, mounts: Mounts, namespaces: Namespaces
    ) -> None:
        self._host = host
        self._cgroups = cgroups
        self._mounts = mounts
        self._namespaces = namespaces
        self._beneath = mounts.features().beneath
        self._verified: dict[str, tuple[bytes, tuple[Wish, ...]]] = {}
        self._forbidden = frozenset(
            filter(None, (_mount_namespace(host, pid) for pid in ("self", "1")))
        )

    def reconcile(self, located: Located, wishes: Sequence[Wish]) -> dict[Path, Result]:
        """Make every wish true. A container that ends meanwhile is normal: GONE.

        Where mountinfo is what it was when the same wishes were found true, they still are.
        """
        wanted = tuple(wishes)
        if (self._text(located), wanted) == self._verified.get(located.container.id):
            return {wish.target: Result(_STANDING[wish.source is not None]) for wish in wanted}
        results = {wish.target: self._fulfil(located, wish) for wish in wanted}
        if all(result.outcome in _STANDING.values() for result in results.values()):
            self._verified[located.container.id] = self._text(located), wanted
        return results

    def keep(self, container_ids: Collection[str]) -> None:
        """Forget what was seen of all other containers."""
        for container_id in self._verified.keys() - set(container_ids):
            del self._verified[container_id]

    def _text(self, located: Located) -> bytes:
        """Empty: it is gone. Looking at the targets could hang on what others mounted there."""
        try:
            return self._host.of_pid(located.process.pid, "mountinfo").read_bytes()
        except OSError:
            return b""

    def _fulfil(self, located: Located, wish: Wish) -> Result:
        steps: list[Step] = []
        try:
            for _ in range(_ROUNDS):
                step = decide(self._stack(located, wish), wish)
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

    def _stack(self, located: Located, wish: Wish) -> tuple[MountEntry, ...]:
        text = self._text(located)
        if not text:
            raise ProcessLookupError
        return mountinfo.at(mountinfo.parse(os.fsdecode(text)), wish.target)

    def _perform(self, located: Located, wish: Wish, step: Step) -> None:
        with self._pinned(located) as pidfd:
            if step is Step.DETACH:
                self._namespaces.detach(pidfd, wish.target)
                return
            assert wish.source is not None
            mount = self._mounts.clone(wish.source)
            try:
                self._mounts.set_attributes(mount, INERT, propagation=Propagation.PRIVATE)
                if step is Step.REPLACE and self._beneath:
                    self._namespaces.replace(pidfd, mount, wish.target)
                else:
                    self._namespaces.attach(pidfd, mount, wish.target)
            finally:
                os.close(mount)

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


_STANDING = {True: Outcome.SHOWN, False: Outcome.ABSENT}


def _right(entry: MountEntry, wish: Wish) -> bool:
    return entry.device == wish.device and entry.root == wish.root


def _mount_namespace(host: HostFs, pid: str) -> int | None:
    try:
        return (host.proc / pid / "ns/mnt").stat().st_ino
    except OSError:
        return None
