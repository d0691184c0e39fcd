# SPDX-License-Identifier: Apache-2.0
"""What shall be: each configured mount as the plan wants to have it, from its driver's preflight,
its history, the breaker of its server, and what an operator asked for. Looks at nothing mounted.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from agents.errors import AgentError
from agents.hostfs import HostFs
from fuse_mounter.breaker import Breakers
from fuse_mounter.config import MounterConfig
from fuse_mounter.drained import Drained
from fuse_mounter.drivers.base import MountBase, SourceMount
from fuse_mounter.drivers.credentials import digest_now
from fuse_mounter.drivers.registry import driver_of
from fuse_mounter.observed import Health, Observation
from fuse_mounter.places import Places
from fuse_mounter.plan import Want
from fuse_mounter.probe import Prober
from fuse_mounter.publication import Publication
from fuse_mounter.record import Record
from fuse_mounter.states import USABLE

#: What a driver needs is looked for this often: while a mount waits for it, and while it is there.
_SOON_S, _AHEAD_S = 0.5, 20.0


class Wishes:
    """History and requests, by the name of the mount."""

    def __init__(
        self,
        places: Places,
        host: HostFs,
        publications: Callable[[MountBase], tuple[Publication, ...]],
    ) -> None:
        self._places, self._host, self._publications = places, host, publications
        self.records: dict[str, Record] = {}
        self.breakers = Breakers(lambda: random.uniform(0.8, 1.2))  # noqa: S311 -- jitter, not a secret
        #: Instances up to this number are to be replaced, as was asked.
        self.newer_than: dict[str, int] = {}
        self.drained = Drained(places.drained)
        self._checked: dict[str, tuple[str, float]] = {}
        #: Why nothing at all can be mounted; None: it can.
        self.hopeless: str | None = None

    def record(self, name: str) -> Record:
        return self.records.setdefault(name, Record(since=time.time()))

    def all(self, config: MounterConfig) -> list[Want]:
        """For this configuration; what was remembered of other mounts is forgotten."""
        names = {mount.name for mount in config.mounts}
        for known in (self.records, self.newer_than, self._checked):
            for name in known.keys() - names:
                del known[name]
        self.drained.keep_only(names)
        self.breakers.keep_only({s for mount in config.mounts if (s := _server(mount))})
        self.breakers.trial_s = config.health.start_limit
        return [self._want(mount) for mount in config.mounts]

    def _want(self, mount: MountBase) -> Want:
        driver, record, now = driver_of(mount), self.record(mount.name), trio.current_time()
        digest = digest_now(mount)
        self._look_ahead(mount, digest, record)
        asked = mount.name in self.newer_than  # whoever asks for it does not wait for a server
        return Want(
            name=mount.name,
            path=mount.path,
            digest=digest,
            also=self._publications(mount),
            has_client=driver.has_client,
            paused=now < record.not_before,
            held=None if asked else self.breakers.holds(_server(mount), mount.name, now=now),
            problem=self.hopeless or record.problem,
            newer_than=self.newer_than.get(mount.name, 0),
            drained=self.drained.holds(mount),
            server=_server(mount),
        )

    def _look_ahead(self, mount: MountBase, digest: str, record: Record) -> None:
        """Preflight, now and then: less often where nothing is about to be started."""
        now, every_s = trio.current_time(), _AHEAD_S if record.state in USABLE else _SOON_S
        checked, at = self._checked.get(mount.name, ("", 0.0))
        if checked == digest and now - at < every_s:
            return
        self._checked[mount.name] = digest, now
        missing = self._loop(mount) or driver_of(mount).preflight(mount, self._host)
        record.preflight(None if missing is None else str(missing))

    def _loop(self, mount: MountBase) -> AgentError | None:
        """A source that holds our staging place would be served to itself, and wait for itself."""
        if isinstance(mount, SourceMount):
            source = mount.source  # as it is written: looking at it might hang
            for own in (self._places.own, self._places.root):
                if _within(own, source) or _within(source, own):
                    return AgentError(
                        f"{str(mount.source)!r} and our own {str(own)!r} overlap",
                        remedy="serve another directory",
                    )
        return None

    def failed(self, mount: MountBase, text: str) -> None:
        """It could not be made."""
        now = trio.current_time()
        self.record(mount.name).failed(text, now=now)
        self.breakers.failed(_server(mount), now=now)

    def ended(self, name: str, staging: str, text: str, mounts: Sequence[MountBase]) -> None:
        """Its client ended; its server is to blame when it has never served."""
        now = trio.current_time()
        if not self.record(name).ended(staging, text, now=now):
            for mount in mounts:
                if mount.name == name:
                    self.breakers.failed(_server(mount), now=now)

    def may_start(self, mount: MountBase) -> bool:
        """Whether it still may, now that others of its server may have been started."""
        now = trio.current_time()
        asked = mount.name in self.newer_than
        return asked or self.breakers.holds(_server(mount), mount.name, now=now) is None

    def started(self, mount: MountBase) -> None:
        """It is being tried."""
        self.breakers.started(_server(mount), mount.name, now=trio.current_time())

    def answered(self, config: MounterConfig, seen: Observation, prober: Prober) -> None:
        """Servers that answer some mount are there."""
        servers = {mount.name: _server(mount) for mount in config.mounts}
        for one in seen.instances:
            probe = prober.last(one.staging)
            if one.health is Health.OK and probe is not None:
                self.breakers.answered(servers.get(one.name), at=probe.at)

    def asked_for(self, mount: MountBase) -> None:
        """An operator wants it tried now."""
        self._checked.pop(mount.name, None)
        self.drained.forget(mount.name)
        self.record(mount.name).asked_for()
        self.breakers.asked_for(_server(mount))

    def patience_s(self) -> float:
        """Until a mount may be tried again; infinite when none is waited for."""
        now = trio.current_time()
        pauses = (record.not_before - now for record in self.records.values())
        own = min((pause for pause in pauses if pause > 0), default=float("inf"))
        return min(own, self.breakers.next_try(now=now))


def _server(mount: MountBase) -> str | None:
    return driver_of(mount).server(mount)


def _within(path: Path, directory: Path) -> bool:
    return f"{path}/".startswith(f"{directory}/")
