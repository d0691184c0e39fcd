# SPDX-License-Identifier: Apache-2.0
"""`passthrough`: a local directory, served by our own FUSE file system."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from agents.config import Duration, Section
from agents.errors import AgentError
from agents.hostfs import HostFs
from fuse_mounter.drivers import needs
from fuse_mounter.drivers.base import SOURCE_PREFIX, ClientDriver, Launch, SourceMount

_WRITE_LIMIT_S = 120.0


class PassthroughOptions(Section):
    """`cache_timeout`: how long the kernel may answer from what it was told; longer is faster.
    `writeback`: it may write later what it was given, and is the only one who writes there.
    """

    cache_timeout: Duration = 1.0
    writeback: Annotated[bool, Field(strict=True)] = False


class PassthroughMount(SourceMount):
    driver: Literal["passthrough"]
    options: PassthroughOptions = PassthroughOptions()


class Passthrough(ClientDriver[PassthroughMount]):
    """The driver."""

    def preflight(self, mount: PassthroughMount, host: HostFs) -> AgentError | None:
        return needs.fuse(host)

    def launch(self, mount: PassthroughMount, staging: Path, host: HostFs) -> Launch:
        argv = [sys.executable, "-P", "-m", "fuse_mounter.passthrough"]
        argv += [str(mount.source), str(staging)]
        argv += ["--name", f"{SOURCE_PREFIX}{mount.name}", "--device", str(host.fuse_device)]
        argv += ["--cache-timeout", str(mount.options.cache_timeout)]
        argv += ["--read-only"] if mount.read_only else []
        if not mount.options.writeback:
            return Launch(tuple(argv))
        # What the kernel holds is written before the client ends.
        return Launch((*argv, "--writeback"), end_limit_s=_WRITE_LIMIT_S)
