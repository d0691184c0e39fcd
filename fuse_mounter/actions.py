# SPDX-License-Identifier: Apache-2.0
"""Takes the steps of a plan. Every step looks again at what it is about to touch, and raises
OSError or AgentError when it could not be done. Decides nothing.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

import trio

from agents import mountinfo
from agents.errors import AgentError
from agents.holder_client import Holder
from agents.hostfs import HostFs
from agents.logs import Logger
from agents.mounts import MountAttribute, Mounts
from agents.threads import Worker
from fuse_mounter import diagnosis, steps
from fuse_mounter.config import MounterConfig
from fuse_mounter.drivers.base import MountBase
from fuse_mounter.drivers.credentials import digest_now
from fuse_mounter.drivers.registry import DRIVERS, driver_of
from fuse_mounter.look import Looker
from fuse_mounter.observed import Health, Observation
from fuse_mounter.places import (
    DIGEST_VARIABLE,
    END_LIMIT_VARIABLE,
    NAME_VARIABLE,
    STAGING_VARIABLE,
    Places,
    StagingName,
)
from fuse_mounter.publish import Piece, Publisher, Way


@dataclass(frozen=True, slots=True)
class Published:
    """A step made pods see an instance."""

    name: str
    staging: str
    way: Way


@dataclass(frozen=True, slots=True)
class Aborted:
    """A step broke a connection; so many of its callers got an error."""

    name: str
    callers: int


@dataclass(frozen=True, slots=True)
class Situation:
    """What a step may look at: what was seen when it was planned, and what is wanted. What takes
    long goes on in `nursery`, and calls `ended` with the step and its error, if there is one.
    """

    seen: Observation
    config: MounterConfig
    holder: Holder
    nursery: trio.Nursery
    ended: Callable[[steps.Action, Exception | None], None]


Outcome = Published | Aborted | None


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
        #: Instances whose connection was broken already.
        self._aborted: set[str] = set()
        # Any: each method takes its own kind of step.
        self._steps: dict[type, Callable[[Any, Situation], Awaitable[Outcome]]] = {
            steps.PrepareRoot: self._prepare_root,
            steps.PlaceAnchor: self._place_anchor,
            steps.Start: self._start,
            steps.Publish: self._publish,
            steps.DetachTop: self._detach_top,
            steps.Abort: self._abort,
            steps.Kill: self._kill,
            steps.Terminate: self._terminate,
            steps.Retire: self._retire,
            steps.Forget: self._forget,
            steps.RemoveAnchor: self._remove_anchor,
            steps.RemovePlace: self._remove_place,
        }

    async def perform(self, step: steps.Action, situation: Situation) -> Outcome:
        """Take one step."""
        self._log.debug("step", step=str(step))
        return await self._steps[type(step)](step, situation)

    async def _prepare_root(self, _: steps.PrepareRoot, __: Situation) -> None:
        self._publisher.ground.prepare_root()

    async def _place_anchor(self, step: steps.PlaceAnchor, _: Situation) -> None:
        self._publisher.place_anchor(step.path)

    async def _start(self, step: steps.Start, situation: Situation) -> None:
        mount = next(one for one in situation.config.mounts if one.name == step.name)
        number = 1 + max((one.number for one in situation.seen.of(step.name)), default=0)
        name = str(StagingName(mount.name, digest_now(mount), number))
        staging = self._publisher.make_staging(name)
        try:
            if driver_of(mount).has_client:
                await self._start_client(mount, staging, situation.holder)
            else:
                self._looker.pending.add(name)
                situation.nursery.start_soon(self._stage, step, mount, staging, situation)
        except BaseException:
            self._clear(name)
            raise

    async def _start_client(self, mount: MountBase, staging: Path, holder: Holder) -> None:
        log = self._places.log(mount.name)
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        labels = {
            NAME_VARIABLE: mount.name,
            DIGEST_VARIABLE: digest_now(mount),
            STAGING_VARIABLE: str(staging),
        }
        launch = driver_of(mount).launch(mount, staging, self._host)
        for path, text in launch.files.items():
            _write_for_root(path, text)
        for directory in launch.directories:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        labels[END_LIMIT_VARIABLE] = f"{launch.end_limit_s:g}"
        environment = {**launch.environment, **labels}
        client = await holder.start(launch.argv, environment=environment, log=log)
        self._log.info("client started", mount=mount.name, pid=client.key.pid)

    async def _stage(
        self, step: steps.Start, mount: MountBase, staging: Path, situation: Situation
    ) -> None:
        """Beside the rounds: a server that does not answer must not hold up other mounts."""
        worker = self._workers.setdefault(mount.name, Worker(f"the source of {mount.name!r}"))
        failed: Exception | None = None
        try:
            await driver_of(mount).stage(mount, staging, self._mounts, worker)
        except (OSError, AgentError) as error:
            failed = error
        finally:
            self._looker.pending.discard(staging.name)
        if failed is not None:
            with suppress(OSError):
                self._clear(staging.name)
        situation.ended(step, failed)

    def _keep_read_only(self, step: steps.Publish, situation: Situation) -> None:
        """Not every client can be told (eosxd): then the mount is made so, and copies of it are."""
        mount = next((one for one in situation.config.mounts if one.name == step.name), None)
        staging = self._publisher.staging(step.staging)
        staged = mountinfo.at(self._publisher.table(), staging)
        if mount is None or not mount.read_only or not staged or staged[-1].read_only:
            return
        place = os.open(staging, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._mounts.set_attributes(place, MountAttribute.RDONLY)
        finally:
            os.close(place)

    async def _publish(self, step: steps.Publish, situation: Situation) -> Published | None:
        target = self._publisher.target(step.path)
        stack = mountinfo.at(self._publisher.table(), target)
        top = next((e for e in stack if step.top and e.mount_id == step.top.mount_id), None)
        alive = any(
            one.shown == step.top.shown and one.health in (Health.OK, Health.UNKNOWN)
            for one in situation.seen.instances
            if step.top is not None
        )
        self._keep_read_only(step, situation)
        piece = self._piece(step, situation.config)
        try:
            way = self._publisher.publish(piece, step.path, top, alive=alive)
        finally:
            if piece.copy is not None:
                os.close(piece.copy)
        own = piece.copy is None and not piece.read_only
        return Published(step.name, step.staging, way) if own else None

    def _piece(self, step: steps.Publish, config: MounterConfig) -> Piece:
        """What belongs at the path of this step."""
        mount = next(one for one in config.mounts if one.name == step.name)
        shared = next((one for one in mount.publish if one.path == step.path), None)
        if shared is None:
            return Piece(step.staging)
        copy = self._looker.folders.take(step.staging, step.path)
        if shared.folder and copy is None:
            raise AgentError(f"no copy of {shared.folder!r} is at hand")
        return Piece(step.staging, copy, shared.read_only)

    async def _detach_top(self, step: steps.DetachTop, _: Situation) -> None:
        self._publisher.detach_top(step.path, step.mount_id)

    async def _abort(self, step: steps.Abort, situation: Situation) -> Aborted | None:
        mounted = mountinfo.at(self._publisher.table(), self._publisher.staging(step.staging))
        if not mounted or mounted[-1].device != step.device:
            return None
        one = next(one for one in situation.seen.instances if one.staging == step.staging)
        abort = self._looker.connection(step.device) / "abort"
        if step.staging in self._aborted:  # and its client is about to end
            abort.write_text("1")
            return None
        self._aborted &= {other.staging for other in situation.seen.instances}
        self._aborted.add(step.staging)
        waiting = self._looker.waiting(one) or 0
        tasks = diagnosis.tasks(self._host, one.client.key.pid) if one.client else ()
        self._log.warning(
            "hung connection aborted",
            mount=one.name,
            pid=one.client and one.client.key.pid,
            cause=one.fault or "its server does not answer, or it waits for itself",
            waiting=waiting,
            # Not `stack`: that means something else to the renderer of log lines.
            threads=[task.line() for task in tasks],
        )
        abort.write_text("1")
        return Aborted(one.name, waiting)

    async def _kill(self, step: steps.Kill, situation: Situation) -> None:
        await situation.holder.signal(step.client, Signals.SIGKILL)

    async def _terminate(self, step: steps.Terminate, situation: Situation) -> None:
        await situation.holder.signal(step.client, Signals.SIGTERM)

    async def _retire(self, step: steps.Retire, _: Situation) -> None:
        self._clear(step.staging)

    def _clear(self, staging: str) -> None:
        """The place, and what was written for its client. Its driver may not be configured any
        more."""
        self._publisher.clear_staging(staging)
        place = self._publisher.staging(staging)
        for path in (path for driver in DRIVERS.values() for path in driver.written(place)):
            if path.exists():  # else a file system that is read-only would refuse even that
                path.unlink(missing_ok=True)

    async def _forget(self, step: steps.Forget, situation: Situation) -> None:
        await situation.holder.forget(step.client)

    async def _remove_anchor(self, step: steps.RemoveAnchor, _: Situation) -> None:
        self._publisher.remove_anchor(step.path, step.mount_id)

    async def _remove_place(self, step: steps.RemovePlace, _: Situation) -> None:
        self._publisher.remove_place(step.path)
        self._looker.former.discard(step.path)  # if it is not empty, it is somebody's


def _write_for_root(path: Path, text: str) -> None:
    """Whole or not at all: a client that starts at this moment reads the old file or the new."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    aside.replace(path)
