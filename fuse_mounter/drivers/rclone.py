# SPDX-License-Identifier: Apache-2.0
"""`rclone`: whatever rclone(1) has a backend for, by a remote of its own configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from agents.config import HostPath, Section
from agents.errors import AgentError
from agents.hostfs import HostFs
from fuse_mounter.drivers import needs
from fuse_mounter.drivers.base import SOURCE_PREFIX, ClientDriver, Launch, MountBase
from fuse_mounter.drivers.options import Options, Source, flags

#: Without a cache of writes most programs cannot open a file to change it.
_DEFAULTS = {"vfs-cache-mode": "writes", "contimeout": "10s", "timeout": "1m"}


class RcloneCredentials(Section):
    """`config`: rclone's configuration file, with the remote and its secrets."""

    config: HostPath


class RcloneMount(MountBase):
    """`source`: `remote:path`. `options` by their long names, without the dashes."""

    driver: Literal["rclone"]
    source: Source
    credentials: RcloneCredentials
    options: Options = Field(default_factory=dict)


class Rclone(ClientDriver):
    """The driver."""

    def preflight(self, mount: RcloneMount, host: HostFs) -> AgentError | None:
        return (
            needs.fuse(host)
            or needs.program("rclone", package="rclone")
            or needs.program("fusermount3", "fusermount", package="fuse3")
            or needs.secret(mount.credentials.config, "credentials.config")
        )

    def launch(self, mount: RcloneMount, staging: Path, host: HostFs) -> Launch:
        options = {
            **_DEFAULTS,
            **mount.options,
            "config": str(mount.credentials.config),
            "devname": f"{SOURCE_PREFIX}{mount.name}",
            "allow-other": True,
            "default-permissions": True,
            "read-only": mount.read_only,
        }
        # It wants a home for its cache; options say where, else it is below this one.
        environment = {"HOME": str(mount.credentials.config.parent)}
        argv = ("rclone", "mount", mount.source, str(staging), *flags(options))
        return Launch(argv, environment)
