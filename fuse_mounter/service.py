# SPDX-License-Identifier: Apache-2.0
"""The running agent: holder, reconciler, configuration changes, what is published."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import trio
from prometheus_client import Metric

from agents.agent import AgentContext, Readiness
from agents.errors import AgentError
from agents.holder_start import find_or_start
from agents.mounts import LinuxMounts, set_label
from agents.published import Published
from fuse_mounter import metrics, pod_metrics, requests
from fuse_mounter.config import MounterConfig
from fuse_mounter.credentials import metrics as credential_metrics
from fuse_mounter.credentials.service import CredentialsService
from fuse_mounter.healing import Healer
from fuse_mounter.lock import exclusive
from fuse_mounter.node_events import event_of
from fuse_mounter.operations import Operations
from fuse_mounter.places import Places
from fuse_mounter.pods import Pods
from fuse_mounter.reconciler import Reconciler
from fuse_mounter.scratch import metrics as scratch_metrics
from fuse_mounter.scratch.keeper import Keeper as ScratchKeeper
from fuse_mounter.standing import Standing, Transition
from fuse_mounter.states import USABLE

_AGAIN_S = 2.0


async def run(context: AgentContext) -> None:
    """Until cancelled. Everything that is mounted stays: it outlives this process."""
    await _MountAgent(context).run()


class _MountAgent:
    """The parts of the agent, and what each is told of the others."""

    def __init__(self, context: AgentContext) -> None:
        config, host, log = context.section, context.host, context.log
        assert isinstance(config, MounterConfig)
        assert context.config_file is not None
        self._context = context
        self._places = Places.of(config.root, context.node.run_dir)
        self._standing = Published(Standing())
        self._looked_at: dict[str, tuple[int | None, int]] = {}
        mounts = LinuxMounts(context.node.selinux_label)
        self._reconciler = Reconciler(
            config, self._places, mounts, host, log, self._published, self._changed
        )
        healer = Healer(self._places.root, host, mounts, context.namespaces)
        self._pods = Pods(config, self._places, host, healer, log, self._usable, self._show)
        self._credentials = CredentialsService(
            config.credentials,
            host,
            log,
            mounts,
            changed=self._show,
            written=self._reconciler.wake,  # a mount may use the file
            published=self._where,
        )
        self._scratch = ScratchKeeper(
            context.config_file, config.scratch, log, self._cleanable, self._show
        )
        context.registry.register(
            metrics.collector(
                lambda: self._standing.value,
                {
                    "pods": self._pod_metrics,
                    "credentials": lambda: credential_metrics.collect(
                        metrics.PREFIX,
                        self._credentials.status,
                        per_user=self._credentials.user_metrics,
                    ),
                    "scratch": lambda: scratch_metrics.collect(
                        metrics.PREFIX, self._scratch.statuses
                    ),
                },
            )
        )

    async def run(self) -> None:
        self._show()
        async with exclusive(self._places.lock), trio.open_nursery() as nursery:
            nursery.start_soon(self._apply_changes)
            nursery.start_soon(self._credentials.run)
            nursery.start_soon(self._scratch.run)
            nursery.start_soon(self._pods.run, self._context.node.cri_socket)
            nursery.start_soon(_answer_requests, self._context, self._reconciler)
            await _keep(self._context, self._reconciler, self._places, nursery)

    async def _apply_changes(self) -> None:
        async for section in self._context.changes:
            assert isinstance(section, MounterConfig)
            self._reconciler.apply(section)
            self._pods.apply(section)
            self._credentials.apply(section.credentials)
            self._scratch.apply(section.scratch)

    def _published(self, now: Standing) -> None:
        _tell(self._context.readiness, now)
        if now != self._standing.value:
            self._standing.set(now)
            self._show()
        usable = {one.name: one for one in now.mounts if one.state in USABLE}
        shows = {name: (one.client_pid, one.layers) for name, one in usable.items()}
        # Not while one is away: that is no time to be looked at.
        if shows.items() - self._looked_at.items():
            self._looked_at.update(shows)
            self._pods.wake()

    def _show(self) -> None:
        root = self._places.root
        self._context.status.set(
            {
                "root": str(root),
                **self._standing.value.to_json(),
                "pods": [one.to_json(root) for one in self._pods.attached],
                "credentials": self._credentials.status.to_json(),
                "scratch": [one.to_json() for one in self._scratch.statuses],
            }
        )

    def _changed(self, transition: Transition) -> None:
        event = event_of(transition, self._context.node.node_name(), time.time())
        if event is not None:
            self._context.tell_pod(event)

    def _pod_metrics(self) -> Iterable[Metric]:
        pods = self._pods
        return pod_metrics.pods(pods.attached, pods.healed, self._standing.value.mounts)

    def _usable(self, name: str) -> bool:
        return self._where(name) is not None

    def _cleanable(self, name: str) -> bool:
        """Whether scratch on it may be cleaned: not when somebody takes it away."""
        drained = (one.drained for one in self._standing.value.mounts if one.name == name)
        return self._usable(name) and not any(drained)

    def _where(self, name: str) -> Path | None:
        """Where pods see a mount; None: nowhere now."""
        now = (one for one in self._standing.value.mounts if one.state in USABLE)
        return next((self._places.root / one.path for one in now if one.name == name), None)


async def _keep(
    context: AgentContext, reconciler: Reconciler, places: Places, nursery: trio.Nursery
) -> None:
    """Never returns. Clients go on while there is no holder; a new one adopts them."""
    while True:
        await reconciler.wait_for_work()
        try:
            start = context.node.holder.start
            holder = await find_or_start(nursery, places.run_dir, context.host, start=start)
            try:
                reconciler.prepare(holder.pid)
                set_label(places.root, context.node.selinux_label)
            except BaseException:
                holder.close()
                raise
        except (AgentError, OSError) as error:
            if context.readiness.reason != str(error):
                context.log.warning("mounts cannot be looked after", error=str(error))
            context.readiness.not_ready(str(error))
            await trio.sleep(_AGAIN_S)
            continue
        try:
            await reconciler.run(holder)
        finally:
            holder.close()


async def _answer_requests(context: AgentContext, reconciler: Reconciler) -> None:
    path = requests.socket_path(context.node.run_dir)
    try:
        await requests.serve(path, Operations(reconciler).handle)
    except OSError as error:
        context.log.warning("no requests can be answered", path=str(path), error=str(error))


def _tell(readiness: Readiness, standing: Standing) -> None:
    """Ready when pods can use every mount that shall be there."""
    for one in standing.mounts:
        if one.state not in USABLE and not one.drained:
            cause = f": {one.cause}" if one.cause else ""
            readiness.not_ready(f"mount {one.name!r} is {one.state.value}{cause}")
            return
    readiness.ready()
