# SPDX-License-Identifier: Apache-2.0
"""`rclone`: whatever rclone(1) has a backend for, by a remote of its own configuration file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from agents import hostfs
from agents.config import HostPath, Section
from agents.errors import AgentError
from agents.hostfs import HostFs
from fuse_mounter.drivers import client_log, needs
from fuse_mounter.drivers.base import (
    SOURCE_PREFIX,
    ClientDriver,
    Launch,
    MountBase,
    Sign,
    private_suffix,
)
from fuse_mounter.drivers.options import Options, Source, flags, refusing

#: What stands before an error in its log.
_ERROR = re.compile(r"\bERROR\s*:")
#: A file in its cache that its server does not have yet.
_DIRTY = re.compile(r'"Dirty":\s*true')
#: What it is sending when it is asked to end may take a while.
_END_LIMIT_S = 30.0
#: Without a cache of writes most programs cannot open a file to change it.
_DEFAULTS = {"vfs-cache-mode": "writes", "contimeout": "10s", "timeout": "1m"}
_OURS = {
    "config": "write credentials.config",
    "default-permissions": "leave it out: modes always count",
}


class RcloneCredentials(Section):
    """`config`: rclone's configuration file, with the remote and its secrets."""

    config: HostPath


class RcloneMount(MountBase):
    """`source`: `remote:path`. `options` by their long names, without the dashes."""

    driver: Literal["rclone"]
    source: Source
    credentials: RcloneCredentials
    options: Annotated[Options, refusing(_OURS)] = Field(default_factory=dict)


class Rclone(ClientDriver[RcloneMount]):
    """The driver."""

    def preflight(self, mount: RcloneMount, host: HostFs) -> AgentError | None:
        return (
            needs.fuse(host)
            or needs.program("rclone", package="rclone")
            or needs.program("fusermount3", "fusermount", package="fuse3")
            or needs.secret(mount.credentials.config, "credentials.config")
        )

    caches = hostfs.CACHES / "rclone"

    def cache_name(self, staging: Path) -> str:
        # Of the mount, not of one client: what one has not sent any more, the next one sends.
        return f"{staging.name.partition('@')[0]}{private_suffix(staging.parent)}"

    def precious(self, cache: Path) -> bool:
        return any(_DIRTY.search(file.read_text()) for file in _files(cache / "vfsMeta"))

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
        own = self.caches / self.cache_name(staging)
        options.setdefault("cache-dir", str(own))
        environment = {"HOME": str(own)}  # it wants one
        argv = ("rclone", "mount", mount.source, str(staging), *flags(options))
        return Launch(argv, environment, directories=(own,), end_limit_s=_END_LIMIT_S)

    def sign(
        self, mount: RcloneMount, device: tuple[int, int], staging: Path, host: HostFs
    ) -> Sign | None:
        return client_log.complaint(client_log.of(staging, mount.name), _ERROR)


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_file())
