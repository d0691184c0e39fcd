# SPDX-License-Identifier: Apache-2.0
"""The running agent: holder, reconciler, configuration changes, what is published."""

from __future__ import annotations

import trio

from agents.agent import AgentContext, Readiness
from agents.errors import AgentError
from agents.holder_start import find_or_start
from agents.mounts import LinuxMounts
from agents.published import Published
from fuse_mounter import metrics
from fuse_mounter.config import MounterConfig
from fuse_mounter.lock import exclusive
from fuse_mounter.places import Places
from fuse_mounter.reconciler import Reconciler
from fuse_mounter.record import MountStatus
from fuse_mounter.states import USABLE

_AGAIN_S = 2.0


async def run(context: AgentContext) -> None:
    """Until cancelled. Everything that is mounted stays: it outlives this process."""
    config = context.section
    assert isinstance(config, MounterConfig)
    places = Places.of(config.root, context.node.run_dir)
    statuses = Published[tuple[MountStatus, ...]](())
    context.registry.register(metrics.collector(lambda: statuses.value))

    def published(now: tuple[MountStatus, ...]) -> None:
        _tell(context.readiness, now)
        if now != statuses.value:
            statuses.set(now)
            mounts = [one.to_json() for one in now]
            context.status.set({"root": str(places.root), "mounts": mounts})

    with exclusive(places.lock):
        reconciler = Reconciler(config, places, LinuxMounts(), context.host, context.log, published)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_apply_changes, context, reconciler)
            await _keep(context, reconciler, places, nursery)


async def _keep(
    context: AgentContext, reconciler: Reconciler, places: Places, nursery: trio.Nursery
) -> None:
    """Never returns. Clients go on while there is no holder; a new one adopts them."""
    while True:
        await reconciler.wait_for_work()
        try:
            reconciler.prepare()
            holder = await find_or_start(nursery, places.run_dir, context.host)
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


async def _apply_changes(context: AgentContext, reconciler: Reconciler) -> None:
    async for section in context.changes:
        assert isinstance(section, MounterConfig)
        reconciler.apply(section)


def _tell(readiness: Readiness, statuses: tuple[MountStatus, ...]) -> None:
    """Ready when pods can use every mount."""
    for one in statuses:
        if one.state not in USABLE:
            cause = f": {one.cause}" if one.cause else ""
            readiness.not_ready(f"mount {one.name!r} is {one.state.value}{cause}")
            return
    readiness.ready()
