# SPDX-License-Identifier: Apache-2.0
"""Collects the facts: mount table, staging directories, the holder's clients, probes, fusectl.

Everything here is quick and never touches a mounted file system; what might hang is left to the
probe's children. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import trio

from agents.holder_client import Holder
from agents.mountinfo import MountEntry
from fuse_mounter import observe
from fuse_mounter.config import MounterConfig
from fuse_mounter.observed import Health, Instance, Observation
from fuse_mounter.places import Places
from fuse_mounter.probe import Prober
from fuse_mounter.publish import Publisher

#: An unwanted client that was asked to end is killed after this long.
END_LIMIT_S = 3.0
#: Requests that have waited this long are a reason to probe at once.
SUSPICIOUS_S = 1.0


class Looker:
    """Remembers only since when something has been going on."""

    def __init__(self, places: Places, publisher: Publisher, hang_after_s: float) -> None:
        self._places, self._publisher = places, publisher
        self.prober = Prober(hang_after_s)
        self._since: dict[tuple[str, bool], float] = {}
        self._waiting_since: dict[str, float] = {}
        self._connections: Path | None = None

    async def look(self, holder: Holder, config: MounterConfig) -> Observation:
        """What is there now. Raises Unavailable when the holder is gone."""
        clients = await holder.clients()
        table = self._publisher.table()
        paths = [mount.path for mount in config.mounts]
        facts = observe.Facts(
            table=table,
            staging=[path.name for path in self._places.staging.iterdir()],
            clients=clients,
            health=self.prober.health(),
            paths=paths,
            obstacles=self._obstacles(table, paths),
        )
        seen = observe.observe(self._places, facts)
        self.prober.keep_only({one.staging for one in seen.instances})
        return replace(seen, instances=self._with_overdue(seen.instances, config))

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

    def _with_overdue(
        self, instances: Collection[Instance], config: MounterConfig
    ) -> tuple[Instance, ...]:
        now = trio.current_time()
        wanted = {mount.name for mount in config.mounts}
        since = {}
        judged = []
        for one in instances:
            key = (one.staging, one.present)
            since[key] = self._since.get(key, now)
            starting = one.present and one.name in wanted
            limit = config.health.start_limit if starting else END_LIMIT_S
            judged.append(replace(one, overdue=now - since[key] > limit))
        self._since = since
        return tuple(judged)

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
