# SPDX-License-Identifier: Apache-2.0
"""Take the root away for good: its process, its mount, and the holder when nobody needs it. For
the end of a node's service, when no agent runs any more.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from signal import Signals

import trio

from agents import holder_start, mountinfo
from agents.errors import AgentError
from agents.holder_client import Holder
from agents.hostfs import HostFs
from agents.mounts import Mounts
from lxcfs_helper.compat.keeper import directory, source_name
from lxcfs_helper.compat.standing import ROOT_VARIABLE, is_ours

_END_S = 3.0
_LOOK_AGAIN_S = 0.02


async def remove(run_dir: Path, host: HostFs, mounts: Mounts) -> tuple[int, tuple[str, ...]]:
    """How many mounts were taken away, and what could not be, in words. Twice is fine."""
    problems = await _end_all(run_dir, host) if _something_there(run_dir) else []
    taken, left = _detach(source_name(run_dir), host, mounts)
    shutil.rmtree(directory(run_dir), ignore_errors=True)
    return taken, (*problems, *left)


def _something_there(run_dir: Path) -> bool:
    return directory(run_dir).exists() or holder_start.socket_path(run_dir).exists()


async def _end_all(run_dir: Path, host: HostFs) -> list[str]:
    """What a dead holder has left is known to the next one: if there is none, it is started."""
    problems = []
    async with trio.open_nursery() as nursery:
        try:
            holder = await holder_start.find_or_start(nursery, run_dir, host)
            try:
                await _end_processes(holder)
                await holder_start.end_unused(holder, run_dir, host)
            finally:
                holder.close()
        except AgentError as error:
            problems.append(str(error))
    return problems


async def _end_processes(holder: Holder) -> None:
    """Raises AgentError when one does not end."""
    deadline = trio.current_time() + _END_S
    while True:
        clients = [one for one in await holder.clients() if ROOT_VARIABLE in one.labels]
        for one in clients:
            if one.ended is not None:
                await holder.forget(one.key)
            else:
                await holder.signal(one.key, Signals.SIGKILL)
        running = [str(one.key.pid) for one in clients if one.ended is None]
        if not running:
            return
        if trio.current_time() > deadline:
            raise AgentError(f"process {', '.join(running)} does not end")
        await trio.sleep(_LOOK_AGAIN_S)


def _detach(source: str, host: HostFs, mounts: Mounts) -> tuple[int, list[str]]:
    """Where it is on top; what others put over it stays, and is named."""
    taken = 0
    while True:
        table = mountinfo.read(host.proc)
        places = {entry.mount_point for entry in table if is_ours(entry, source)}
        on_top = [place for place in places if is_ours(mountinfo.at(table, place)[-1], source)]
        if not on_top:
            return taken, [f"{place!r}: something is mounted over it" for place in sorted(places)]
        for place in on_top:
            mounts.unmount(Path(place), detach=True)
            taken += 1
