# SPDX-License-Identifier: Apache-2.0
"""Take everything down: published mounts, clients, the holder, the root. For the end of a node's
service, when no agent runs any more.
"""

from __future__ import annotations

import shutil

import trio

from agents import holder_start, mountinfo
from agents.errors import AgentError
from agents.hostfs import HostFs
from agents.logs import get_logger
from agents.mounts import LinuxMounts, Mounts
from fuse_mounter.config import MounterConfig
from fuse_mounter.lock import exclusive
from fuse_mounter.places import Places
from fuse_mounter.reconciler import Reconciler

_LIMIT_S = 10.0


async def drain_all(
    config: MounterConfig, places: Places, host: HostFs, *, start_holder: bool = True
) -> None:
    """Raises AgentError, naming what is left, when something could not be taken away, or while an
    agent runs. Doing it twice is fine. `start_holder` False: the holder has a pod or a service of
    its own, and stays.
    """
    if _nothing_there(places, host):
        return
    mounts: Mounts = LinuxMounts()
    async with exclusive(places.lock):
        reconciler = Reconciler(config, places, mounts, host, get_logger(), lambda _: None)
        left = await _drained(reconciler, places, host, start_holder=start_holder)
        if left:
            raise AgentError(
                f"still there after {_LIMIT_S:g} s: {', '.join(left)}",
                remedy="see what uses them (fuser -vm), end that, and drain again",
            )
        reconciler.remove_everything()
    shutil.rmtree(places.own, ignore_errors=True)


async def _drained(
    reconciler: Reconciler, places: Places, host: HostFs, *, start_holder: bool
) -> tuple[str, ...]:
    """What is still there. Raises AgentError as itself, not in the group of a nursery."""
    left: tuple[str, ...] = ()
    failed: AgentError | None = None
    async with trio.open_nursery() as nursery:
        try:
            holder = await holder_start.find_or_start(
                nursery, places.run_dir, host, start=start_holder
            )
            try:
                reconciler.prepare(holder.pid)
                left = await reconciler.drain(holder, _LIMIT_S)
                if not left and start_holder:
                    await holder_start.end_unused(holder, places.run_dir, host)
            finally:
                holder.close()
        except AgentError as error:
            failed = error
    if failed is not None:
        raise failed
    return left


def _nothing_there(places: Places, host: HostFs) -> bool:
    return (
        not places.own.exists()
        and not holder_start.socket_path(places.run_dir).exists()
        and not mountinfo.at(mountinfo.read(host.proc), places.root)
    )
