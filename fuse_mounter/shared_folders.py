# SPDX-License-Identifier: Apache-2.0
"""Shared folders: copies of them to publish, and their owner, mode and default ACL, which are
looked at as often as the mount is probed and set again when somebody has changed them.

Only a mount that answers is entered, by the children of a small process of their own
(`folder_process`), one at a time for each mount; one that does not come back is left behind, and
then no other is sent there. Decides nothing about what is published.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import trio

from agents.hostfs import HostFs
from agents.logs import Logger
from fuse_mounter.drivers.base import MountBase
from fuse_mounter.folder_process import Answer, Request
from fuse_mounter.folders import Folders
from fuse_mounter.observed import Health, Instance, Observation
from fuse_mounter.places import Places
from fuse_mounter.publication import Publication
from fuse_mounter.shared_folder import SharedFolder

#: After a copy could not be attached.
_PAUSE_S = 2.0


@dataclass(frozen=True, slots=True)
class _Seen:
    """How it stood at one path when somebody was last sent there; `at` is on trio's clock."""

    answer: Answer
    at: float


@dataclass(frozen=True, slots=True)
class _Errand:
    """What is to be looked after in one instance."""

    mount: MountBase
    shared: SharedFolder
    staging: str
    mount_id: int | None
    copy: bool
    published: str | None

    @property
    def key(self) -> tuple[str, str]:
        return self.staging, self.shared.path


class SharedFolders:
    """By staging directory and path. Keeps a copy only until it is published."""

    def __init__(self, places: Places, host: HostFs, log: Logger) -> None:
        self._places, self._host, self._log = places, host, log
        self._seen: dict[tuple[str, str], _Seen] = {}
        self._copies: dict[tuple[str, str], int] = {}
        self._out: set[str] = set()
        self._failed: dict[str, tuple[float, str]] = {}
        self._folders = Folders()
        #: How often something had to be set again, by mount and path.
        self.mended: Counter[tuple[str, str]] = Counter()

    def publications(self, mount: MountBase) -> tuple[Publication, ...]:
        """Where else a mount is published, and how it stands there."""
        return tuple(self._publication(mount, shared) for shared in mount.publish)

    def problem(self, mount: MountBase, shared: SharedFolder) -> str | None:
        """What is wrong with a folder, in the newest instance that was entered for it."""
        known = [
            seen
            for (staging, path), seen in self._seen.items()
            if path == shared.path and staging.startswith(f"{mount.name}@")
        ]
        return max(known, key=lambda seen: seen.at).answer.problem if known else None

    def failed(self, mounts: Sequence[MountBase], path: str | None, text: str) -> bool:
        """What should be at this path could not be attached: not again at once. False: it is none
        of ours.
        """
        ours = {shared.path for mount in mounts for shared in mount.publish}
        if path is None or path not in ours:
            return False
        self._failed = {path: until for path, until in self._failed.items() if path in ours}
        self._failed[path] = trio.current_time() + _PAUSE_S, text
        return True

    def take(self, staging: str, path: str) -> int | None:
        """The copy for this path, which the caller publishes and closes. None: there is none."""
        if (seen := self._seen.get((staging, path))) is not None:
            self._seen[staging, path] = replace(seen, answer=replace(seen.answer, elsewhere=False))
        return self._copies.pop((staging, path), None)

    def look_after(
        self,
        seen: Observation,
        mounts: Sequence[MountBase],
        every_s: float,
        nursery: trio.Nursery,
        news: Callable[[], None],
    ) -> None:
        """Send somebody where it is time; `news` is called when he has something new to tell."""
        errands: dict[str, list[_Errand]] = {}
        useful: set[tuple[str, str]] = set()
        for mount in mounts:
            usable = sorted(_usable(mount, seen), key=lambda one: one.number)
            for one in usable:
                for errand in self._errands(mount, one, seen, newest=one is usable[-1]):
                    useful.add(errand.key)
                    if one.staging not in self._out and self._due(errand, every_s):
                        errands.setdefault(one.staging, []).append(errand)
        self._keep_only(useful, seen)
        for staging, todo in errands.items():
            self._out.add(staging)
            nursery.start_soon(self._run, staging, todo, news)

    def close(self) -> None:
        """End the process that enters, and let go of copies; the next errand starts another."""
        while self._copies:
            os.close(self._copies.popitem()[1])
        self._folders.close()

    def _publication(self, mount: MountBase, shared: SharedFolder) -> Publication:
        ready = frozenset(staging for staging, path in self._copies if path == shared.path)
        until, failure = self._failed.get(shared.path, (0.0, None))
        paused = trio.current_time() < until
        return Publication(
            shared.path,
            shared.folder,
            shared.read_only,
            ready,
            problem=failure if paused else self.problem(mount, shared),
            paused=paused,
            elsewhere=self._elsewhere(mount, shared),
        )

    def _elsewhere(self, mount: MountBase, shared: SharedFolder) -> bool:
        return any(
            seen.answer.elsewhere
            for (staging, path), seen in self._seen.items()
            if path == shared.path and staging.startswith(f"{mount.name}@")
        )

    def _errands(
        self, mount: MountBase, instance: Instance, seen: Observation, *, newest: bool
    ) -> Iterator[_Errand]:
        for shared in mount.publish:
            whole = instance.shown
            told = whole is not None and whole.tells_root
            if told and not (shared.folder or shared.kept):
                continue
            wanted = Publication(shared.path, shared.folder, shared.read_only)
            top = seen.stack(shared.path).top
            published = top is not None and top.shown == wanted.shows(whole)
            known = self._seen.get((instance.staging, shared.path))
            wrong = not published or (known is not None and known.answer.elsewhere)
            copy = newest and bool(shared.folder) and wrong
            place = str(self._places.root / shared.path) if published and not told else None
            staging, mount_id = instance.staging, instance.mount_id
            yield _Errand(mount, shared, staging, mount_id, copy, place)

    def _due(self, errand: _Errand, every_s: float) -> bool:
        known = self._seen.get(errand.key)
        if known is None:
            return True
        missing = errand.copy and errand.key not in self._copies and known.answer.problem is None
        return missing or trio.current_time() - known.at >= every_s

    def _keep_only(self, useful: set[tuple[str, str]], seen: Observation) -> None:
        present = {one.staging for one in seen.instances}
        for key in self._seen.keys() - useful:
            if key[0] not in present or key[0] not in self._out:
                del self._seen[key]
        for key in self._copies.keys() - useful:
            os.close(self._copies.pop(key))

    async def _run(
        self, staging: str, errands: Sequence[_Errand], news: Callable[[], None]
    ) -> None:
        try:
            for errand in errands:
                if await self._run_one(errand):
                    news()
        except OSError:
            pass  # no child can be started: that says nothing about the folder
        finally:
            self._out.discard(staging)

    async def _run_one(self, errand: _Errand) -> bool:
        """Whether something was learned of the folder."""
        shared, before = errand.shared, self._seen.get(errand.key)
        answer, copy = await self._folders.ask(
            Request(
                proc=str(self._host.proc),
                top=str(self._places.staging / errand.staging),
                folder=shared.folder,
                owner=shared.owner,
                group=shared.group,
                mode=shared.mode_bits,
                acl=shared.default_acl,
                create=shared.create,
                copy=errand.copy,
                mount_id=errand.mount_id,  # it may be taken away before somebody comes there
                published=errand.published,
            )
        )
        if copy is not None:
            self._replace_copy(errand.key, copy)
        if answer is None or answer.left:
            return False
        self._seen[errand.key] = _Seen(answer, trio.current_time())
        where = {"mount": errand.mount.name, "path": shared.path}
        if answer.mended:
            self.mended[errand.mount.name, shared.path] += 1
            self._log.info("shared folder set", **where, what=", ".join(answer.mended))
        if answer.problem and (before is None or before.answer.problem != answer.problem):
            self._log.warning("shared folder not as it shall be", **where, error=answer.problem)
        return True

    def _replace_copy(self, key: tuple[str, str], copy: int) -> None:
        if (old := self._copies.pop(key, None)) is not None:
            os.close(old)
        self._copies[key] = copy


def _usable(mount: MountBase, seen: Observation) -> Iterator[Instance]:
    """Those that answer; what does not is not entered."""
    for one in seen.of(mount.name):
        if one.present and one.shown is not None and one.health is Health.OK:
            yield one
