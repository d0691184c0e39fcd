# SPDX-License-Identifier: Apache-2.0
"""Takes the steps of a plan. Every step looks again at what it is about to touch, and raises
OSError or AgentError when it could not be done. Decides nothing.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

from agents import mountinfo
from agents.errors import AgentError, Unavailable
from agents.holder_client import Holder
from agents.hostfs import HostFs
from agents.logs import Logger
from agents.mounts import Mounts
from agents.threads import Worker
from fuse_mounter import plan
from fuse_mounter.config import MounterConfig
from fuse_mounter.drivers.base import MountBase
from fuse_mounter.drivers.registry import DRIVERS, driver_of
from fuse_mounter.look import Looker
from fuse_mounter.observed import Health, Observation
from fuse_mounter.places import (
    DIGEST_VARIABLE,
    NAME_VARIABLE,
    STAGING_VARIABLE,
    Places,
    StagingName,
)
from fuse_mounter.publish import Publisher, Way


@dataclass(frozen=True, slots=True)
class Published:
    """A step made pods see an instance."""

    name: str
    staging: str
    way: Way


@dataclass(frozen=True, slots=True)
class Situation:
    """What a step may look at: what was seen when it was planned, and what is wanted."""

    seen: Observation
    config: MounterConfig
    holder: Holder


class Performer:
    """Effects only."""

    def __init__(
        self,
        places: Places,
        publisher: Publisher,
        mounts: Mounts,
        looker: Looker,
        host: HostFs,
        log: Logger,
    ) -> None:
        self._places, self._publisher, self._mounts = places, publisher, mounts
        self._looker, self._host, self._log = looker, host, log
        self._workers: dict[str, Worker] = {}
        # Any: each method takes its own kind of step.
        self._steps: dict[type, Callable[[Any, Situation], Awaitable[Published | None]]] = {
            plan.PrepareRoot: self._prepare_root,
            plan.PlaceAnchor: self._place_anchor,
            plan.Start: self._start,
            plan.Publish: self._publish,
            plan.DetachTop: self._detach_top,
            plan.Abort: self._abort,
            plan.Kill: self._kill,
            plan.Terminate: self._terminate,
            plan.Retire: self._retire,
            plan.Forget: self._forget,
            plan.RemoveAnchor: self._remove_anchor,
        }

    async def perform(self, step: plan.Action, situation: Situation) -> Published | None:
        """Take one step."""
        self._log.debug("step", step=str(step))
        return await self._steps[type(step)](step, situation)

    async def _prepare_root(self, _: plan.PrepareRoot, __: Situation) -> None:
        self._publisher.prepare_root()

    async def _place_anchor(self, step: plan.PlaceAnchor, _: Situation) -> None:
        self._publisher.place_anchor(step.path)

    async def _start(self, step: plan.Start, situation: Situation) -> None:
        mount = next(one for one in situation.config.mounts if one.name == step.name)
        number = 1 + max((one.number for one in situation.seen.of(step.name)), default=0)
        name = str(StagingName(mount.name, mount.digest, number))
        staging = self._publisher.make_staging(name)
        try:
            if driver_of(mount).has_client:
                await self._start_client(mount, staging, situation.holder)
            else:
                await self._stage(mount, staging)
        except BaseException:
            self._clear(name)
            raise

    async def _start_client(self, mount: MountBase, staging: Path, holder: Holder) -> None:
        log = self._places.log(mount.name)
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        labels = {
            NAME_VARIABLE: mount.name,
            DIGEST_VARIABLE: mount.digest,
            STAGING_VARIABLE: str(staging),
        }
        launch = driver_of(mount).launch(mount, staging, self._host)
        for path, text in launch.files.items():
            _write_for_root(path, text)
        environment = {**launch.environment, **labels}
        client = await holder.start(launch.argv, environment=environment, log=log)
        self._log.info("client started", mount=mount.name, pid=client.key.pid)

    async def _stage(self, mount: MountBase, staging: Path) -> None:
        worker = self._workers.setdefault(mount.name, Worker(f"the source of {mount.name!r}"))
        try:
            await driver_of(mount).stage(mount, staging, self._mounts, worker)
        except Unavailable as error:
            # Not of the holder, which is what it would mean to whoever takes the steps.
            raise AgentError(str(error)) from error

    async def _publish(self, step: plan.Publish, situation: Situation) -> Published:
        target = self._publisher.target(step.path)
        stack = mountinfo.at(self._publisher.table(), target)
        top = next((e for e in stack if step.top and e.mount_id == step.top.mount_id), None)
        alive = any(
            one.shown == step.top.shown and one.health in (Health.OK, Health.UNKNOWN)
            for one in situation.seen.instances
            if step.top is not None
        )
        way = self._publisher.publish(step.staging, step.path, top, alive=alive)
        return Published(step.name, step.staging, way)

    async def _detach_top(self, step: plan.DetachTop, _: Situation) -> None:
        self._publisher.detach_top(step.path, step.mount_id)

    async def _abort(self, step: plan.Abort, _: Situation) -> None:
        mounted = mountinfo.at(self._publisher.table(), self._publisher.staging(step.staging))
        if mounted and mounted[-1].device == step.device:
            self._log.warning("hung connection aborted", mount=step.staging)
            (self._looker.connection(step.device) / "abort").write_text("1")

    async def _kill(self, step: plan.Kill, situation: Situation) -> None:
        await situation.holder.signal(step.client, Signals.SIGKILL)

    async def _terminate(self, step: plan.Terminate, situation: Situation) -> None:
        await situation.holder.signal(step.client, Signals.SIGTERM)

    async def _retire(self, step: plan.Retire, _: Situation) -> None:
        self._clear(step.staging)

    def _clear(self, staging: str) -> None:
        """The place, and what was written for its client. Its driver may not be configured any
        more."""
        self._publisher.clear_staging(staging)
        place = self._publisher.staging(staging)
        for path in (path for driver in DRIVERS.values() for path in driver.written(place)):
            path.unlink(missing_ok=True)

    async def _forget(self, step: plan.Forget, situation: Situation) -> None:
        await situation.holder.forget(step.client)

    async def _remove_anchor(self, step: plan.RemoveAnchor, _: Situation) -> None:
        self._publisher.remove_anchor(step.path, step.mount_id)


def _write_for_root(path: Path, text: str) -> None:
    """Whole or not at all: a client that starts at this moment reads the old file or the new."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    aside.replace(path)
