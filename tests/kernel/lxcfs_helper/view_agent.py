# SPDX-License-Identifier: Apache-2.0
"""The view agent as a process of its own, told by a JSON file who runs here, not by a runtime.

Run with two arguments: that file, and the agent's run directory. Everything else is the real thing.
`--dies-at` is the moment at which it dies; with `--untold` the kernel tells it nothing, as a user
who has as many inotify instances as he may have.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import trio
from prometheus_client import CollectorRegistry

from agents import inotify
from agents.agent import AgentContext, Readiness, Status
from agents.config import NodeConfig, Section
from agents.containers import Container, Pod
from agents.errors import Unavailable
from agents.hostfs import HostFs
from agents.logs import get_logger
from agents.mounts import LinuxMounts
from agents.namespaces import NamespaceHelper
from agents.published import Published
from lxcfs_helper import attaching, service
from lxcfs_helper.compat.keeper import Keeper
from lxcfs_helper.config import ViewConfig
from lxcfs_helper.files import ViewFiles, views_directory
from lxcfs_helper.told import Told
from tests.kernel.lxcfs_helper.mortal import die_at


class ListedContainers:
    """Whoever the file lists now."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def list(self) -> tuple[Container, ...]:
        return tuple(
            Container(row["id"], "main", Pod(row["pod"], row["namespace"], "uid"), row["pid"])
            for row in json.loads(self._path.read_text())
        )


async def main(
    listing: Path, run_dir: Path, namespaces: NamespaceHelper, dies_at: int | None
) -> None:
    changes: trio.MemoryReceiveChannel[Section] = trio.open_memory_channel[Section](0)[1]
    section = ViewConfig.model_validate({"heartbeat": "100ms", "poll": "100ms"})
    context = AgentContext(
        NodeConfig.model_validate({"run_dir": str(run_dir)}),
        section,
        changes,
        HostFs(),
        get_logger(),
        CollectorRegistry(),
        Readiness(),
        Published[Status]({}),
        namespaces,
    )
    attaching.VERIFY_S = 1.0  # nobody wants to wait for what is checked every few seconds
    mounts = LinuxMounts()
    if dies_at is not None:
        die_at(dies_at, mounts, namespaces)
    files = ViewFiles(views_directory(run_dir), mounts, context.host.proc)
    files.adopt()
    told = Told.by_kernel(context, None)
    root = Keeper(None, run_dir, context.host, mounts, context.log)
    running = service.Service(context, ListedContainers(listing), files, mounts, told, root)
    async with trio.open_nursery() as nursery:
        running.start(nursery)


def no_more(self: inotify.Inotify) -> None:
    raise Unavailable("cannot watch files", remedy="raise fs.inotify.max_user_instances")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("listing", type=Path)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--dies-at", type=int)
    parser.add_argument("--untold", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    told = options()
    if told.untold:
        inotify.Inotify.__init__ = no_more  # type: ignore[method-assign]  # what the kernel says
    trio.run(main, told.listing, told.run_dir, NamespaceHelper.start(), told.dies_at)
