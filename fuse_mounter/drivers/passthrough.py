# SPDX-License-Identifier: Apache-2.0
"""`passthrough`: a local directory, served by our own FUSE file system."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from agents.config import Duration, Section
from agents.errors import AgentError
from agents.hostfs import HostFs
from fuse_mounter.drivers import needs
from fuse_mounter.drivers.base import SOURCE_PREFIX, ClientDriver, Launch, SourceMount


class PassthroughOptions(Section):
    """How long the kernel may answer from what it was told before; longer is faster."""

    cache_timeout: Duration = 1.0


class PassthroughMount(SourceMount):
    driver: Literal["passthrough"]
    options: PassthroughOptions = PassthroughOptions()


class Passthrough(ClientDriver):
    """The driver."""

    def preflight(self, mount: PassthroughMount, host: HostFs) -> AgentError | None:
        return needs.fuse(host)

    def launch(self, mount: PassthroughMount, staging: Path, host: HostFs) -> Launch:
        argv = [sys.executable, "-P", "-m", "fuse_mounter.passthrough"]
        argv += [str(mount.source), str(staging)]
        argv += ["--name", f"{SOURCE_PREFIX}{mount.name}", "--device", str(host.fuse_device)]
        argv += ["--cache-timeout", str(mount.options.cache_timeout)]
        return Launch((*argv, "--read-only") if mount.read_only else tuple(argv))
