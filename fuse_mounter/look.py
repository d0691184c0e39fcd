# SPDX-License-Identifier: Apache-2.0
"""Collects the facts: mount table, staging directories, the holder's clients, probes, fusectl.

Everything here is quick and never touches a mounted file system; what might hang is left to the
probe's children. Decides nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import trio

from agents.holder_client import Holder
from agents.hostfs import HostFs
from agents.mountinfo import MountEntry
from fuse_mounter import diagnosis, observe
from fuse_mounter.config import MounterConfig
from fuse_mounter.drivers.nfs import NfsMount
from fuse_mounter.observed import Health, Instance, Observation
from fuse_mounter.places import Places
from fuse_mounter.probe import Prober
from fuse_mounter.publish import Publisher
from fuse_mounter.replaced import Replaced
from fuse_mounter.shared_folders import SharedFolders
from fuse_mounter.signs import Signs

#: An unwanted client that was asked to end is killed after this long, unless it was started with
#: another limit.
END_LIMIT_S = 3.0
#: Requests that have waited this long are a reason to probe at once.
SUSPICIOUS_S = 1.0


def _sources(config: MounterConfig) -> dict[str, str]:
    """What shows in mount tables for mounts whose source we cannot choose."""
    exports = (mount for mount in config.mounts if isinstance(mount, NfsMount))
    return {path: mount.source for mount in exports for path in mount.paths}


def _end_limit(one: Instance) -> float:
    said = one.client.end_limit_s if one.client is not None else None
    return END_LIMIT_S if said is None else said


class Looker:
    """Remembers only since when something has been going on."""

    def __init__(
        self,
        places: Places,
        publisher: Publisher,
        host: HostFs,
        folders: SharedFolders,
        hang_after_s: float,
    ) -> None:
        self._places, self._publisher, self._host = places, publisher, host
        #: Staging directories that the kernel is being asked to mount at.
        self.pending: set[str] = set()
        #: Places of mounts that are not configured any more, unless they are gone.
        self.former: set[str] = set()
        self._latest: frozenset[str] = frozenset()
        self.prober = Prober(hang_after_s)
        self.signs = Signs(publisher.staging, host)
        self.folders = folders
        self._replaced = Replaced(host, self.connection)
        self._since: dict[tuple[str, bool], float] = {}
        self._waiting_since: dict[str, float] = {}
        self._connections: Path | None = None

    async def look(self, holder: Holder, config: MounterConfig) -> Observation:
        """What is there now. Raises Unavailable when the holder is gone."""
        clients = await holder.clients()
        table = self._publisher.table()
        paths = [path for mount in config.mounts for path in mount.paths]
        self._remember(table, paths)
        facts = observe.Facts(
            table=table,
            staging=[path.name for path in self._places.staging.iterdir()],
            clients=clients,
            health=self.prober.health(),
            paths=[*paths, *self.former],
            obstacles=self._obstacles(table, paths),
            sources=_sources(config),
            pending=self.pending,
            contained=self._publisher.ground.contained,
            also={mount.name: self.folders.publications(mount) for mount in config.mounts},
        )
        seen = observe.observe(self._places, facts)
        self.prober.keep_only({one.staging for one in seen.instances})
        self.signs.look(seen.instances, config.mounts)
        return replace(seen, instances=self._judged(seen.instances, config))

    def _remember(self, table: Collection[MountEntry], paths: Collection[str]) -> None:
        """Places that were configured, and whose directory is still there."""
        mounted = {entry.mount_point for entry in table}
        mounted.discard(str(self._places.root))
        self.former |= self._latest - set(paths)
        self._latest = frozenset(paths)
        for path in list(self.former):
            place = self._places.root / path
            # Looking into what is mounted on the way there might hang, and is not for us.
            hidden = any(str(parent) in mounted for parent in place.parents)
            if path in paths or hidden or not os.path.lexists(place):
                self.former.discard(path)

    def _obstacles(self, table: Collection[MountEntry], paths: Collection[str]) -> dict[str, str]:
        found = {}
        mounted = {entry.mount_point for entry in table}
        for path in paths:
            # Where something is mounted there is a directory, and looking at it might hang.
            if str(self._places.root / path) not in mounted:
                problem = self._publisher.obstacle(path)
                if problem is not None:
                    found[path] = problem
        return found

    def _judged(
        self, instances: Collection[Instance], config: MounterConfig
    ) -> tuple[Instance, ...]:
        now = trio.current_time()
        self._replaced.remember(instances)
        wanted = {mount.name for mount in config.mounts}
        since = {}
        judged = []
        for one in instances:
            key = (one.staging, one.present)
            since[key] = self._since.get(key, now)
            starting = one.present and one.name in wanted
            limit = config.health.start_limit if starting else _end_limit(one)
            age = now - since[key]
            late = age > limit
            useless = late and self._replaced.useless(one, config.health.hang_after)
            fault = self._fault(one)
            judged.append(replace(one, age_s=age, overdue=late, abandoned=useless, fault=fault))
        self._since = since
        return tuple(judged)

    def _fault(self, one: Instance) -> str:
        """What is known of why it does not answer well."""
        probe = self.prober.last(one.staging)
        if one.health is Health.FAULTY and probe is not None:
            number = probe.answer.number
            return f"{errno.errorcode.get(number, number)} ({os.strerror(number)})"
        if one.health is Health.HUNG and one.client is not None:
            return diagnosis.why(self._host, one.client.key.pid)
        return (self.signs.suspicion(one.staging) or "") if one.health is Health.OK else ""

    def probe_due(
        self,
        seen: Observation,
        config: MounterConfig,
        nursery: trio.Nursery,
        news: Callable[[], None],
    ) -> None:
        """Send out the probes whose time has come; `news` is called when one has something new."""
        self.prober.limit_s = config.health.hang_after
        for one in seen.instances:
            if one.shown is None:
                continue
            every = config.health.probe_every
            if one.health is Health.UNKNOWN:
                every = 0.0
            elif one.health is not Health.OK or self._suspicious(one):
                every = min(every, SUSPICIOUS_S)
            if self.prober.due(one.staging, every):
                path = self._places.staging / one.staging
                nursery.start_soon(self.prober.ask, one.staging, path, news)

    def _suspicious(self, one: Instance) -> bool:
        if self.signs.suspicion(one.staging):
            return True
        now = trio.current_time()
        if not self.waiting(one):
            self._waiting_since.pop(one.staging, None)
            return False
        return now - self._waiting_since.setdefault(one.staging, now) > SUSPICIOUS_S

    def waiting(self, one: Instance) -> int | None:
        """Requests of this instance's FUSE connection that have no answer yet; None: not FUSE."""
        if one.client is None or one.shown is None:
            return None
        try:
            return int((self.connection(one.shown.device) / "waiting").read_text())
        except (OSError, ValueError):
            return None

    def connection(self, device: tuple[int, int]) -> Path:
        """The fusectl directory of a FUSE file system."""
        if self._connections is None:
            self._connections = self._publisher.connections()
        return self._connections / str(device[1])
