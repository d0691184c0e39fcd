# SPDX-License-Identifier: Apache-2.0
"""`passthrough`: a local directory, served by our own FUSE file system."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from agents.config import Duration, Section
from agents.errors import AgentError, Unavailable
from agents.hostfs import HostFs
from agents.mounts import Mounts
from fuse_mounter.drivers.base import SOURCE_PREFIX, SourceMount


class PassthroughOptions(Section):
    """How long the kernel may answer from what it was told before; longer is faster."""

    cache_timeout: Duration = 1.0


class PassthroughMount(SourceMount):
    driver: Literal["passthrough"]
    options: PassthroughOptions = PassthroughOptions()


class Passthrough:
    """The driver."""

    has_client = True

    def preflight(self, mount: PassthroughMount, host: HostFs) -> AgentError | None:
        if host.fuse_device.exists():
            return None
        return Unavailable(
            f"{str(host.fuse_device)!r} is missing",
            remedy="load the kernel module (modprobe fuse) and give the agent the device",
        )

    def command(self, mount: PassthroughMount, staging: Path, host: HostFs) -> list[str]:
        argv = [sys.executable, "-P", "-m", "fuse_mounter.passthrough"]
        argv += [str(mount.source), str(staging)]
        argv += ["--name", f"{SOURCE_PREFIX}{mount.name}", "--device", str(host.fuse_device)]
        argv += ["--cache-timeout", str(mount.options.cache_timeout)]
        return [*argv, "--read-only"] if mount.read_only else argv

    def stage(self, mount: PassthroughMount, staging: Path, mounts: Mounts) -> None:
        raise NotImplementedError("a client mounts it")
