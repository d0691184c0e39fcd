# SPDX-License-Identifier: Apache-2.0
"""`bind`: a directory of this node, as it is. No client: the kernel serves it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from agents.errors import AgentError, Unavailable
from agents.hostfs import HostFs
from agents.mountinfo import Watched
from agents.mounts import MountFlag, Mounts, Propagation
from agents.threads import Worker
from fuse_mounter.drivers import autofs
from fuse_mounter.drivers.base import KernelDriver, SourceMount

_LIMIT_S = 10.0


class BindMount(SourceMount):
    driver: Literal["bind"]


class Bind(KernelDriver[BindMount]):
    """The driver."""

    def __init__(self) -> None:
        self._tables: dict[Path, Watched] = {}

    def preflight(self, mount: BindMount, host: HostFs) -> AgentError | None:
        table = self._tables.setdefault(host.proc, Watched(host.proc)).mounted()
        if not autofs.any_in(table) or autofs.directory_at(table, mount.source) is None:
            return None
        return AgentError(
            f"{str(mount.source)!r} is the directory of an automounter: in a copy of it everybody "
            "would get 'Too many levels of symbolic links'",
            remedy="name a directory in it, or let pods bind it by hostPath with HostToContainer",
        )

    async def stage(self, mount: BindMount, staging: Path, mounts: Mounts, worker: Worker) -> None:
        try:
            # The source may lie on a file system that hangs.
            await worker.call(lambda: _bind(mount, staging, mounts), timeout_s=_LIMIT_S)
        except OSError as error:
            raise Unavailable(
                f"cannot mount {str(mount.source)!r}: {error.strerror}",
                remedy="the source must be a directory of this node",
            ) from error


def _bind(mount: BindMount, staging: Path, mounts: Mounts) -> None:
    mounts.bind(mount.source, staging)
    # Else what is mounted below the source later would appear here, and the other way round.
    mounts.set_propagation(staging, Propagation.PRIVATE)
    if mount.read_only:
        flags = MountFlag.REMOUNT | MountFlag.BIND | MountFlag.RDONLY
        mounts.mount("none", staging, "none", flags)
