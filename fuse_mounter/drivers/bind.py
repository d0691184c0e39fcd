# SPDX-License-Identifier: Apache-2.0
"""`bind`: a directory of this node, as it is. No client: the kernel serves it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from agents.errors import AgentError
from agents.hostfs import HostFs
from agents.mounts import MountFlag, Mounts, Propagation
from fuse_mounter.drivers.base import SourceMount


class BindMount(SourceMount):
    driver: Literal["bind"]


class Bind:
    """The driver."""

    has_client = False

    def preflight(self, mount: BindMount, host: HostFs) -> AgentError | None:
        return None

    def command(self, mount: BindMount, staging: Path, host: HostFs) -> list[str]:
        raise NotImplementedError("it has no client")

    def stage(self, mount: BindMount, staging: Path, mounts: Mounts) -> None:
        mounts.bind(mount.source, staging)
        # Else what is mounted below the source later would appear here, and the other way round.
        mounts.set_propagation(staging, Propagation.PRIVATE)
        if mount.read_only:
            flags = MountFlag.REMOUNT | MountFlag.BIND | MountFlag.RDONLY
            mounts.mount("none", staging, "none", flags)
