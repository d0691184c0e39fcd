# SPDX-License-Identifier: Apache-2.0
"""`mount-s3`: a bucket by Mountpoint for Amazon S3 (mount-s3(1), of AWS' own package)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from agents.config import HostPath, Section
from agents.errors import AgentError
from agents.hostfs import HostFs
from fuse_mounter.drivers import needs
from fuse_mounter.drivers.base import ClientDriver, Launch, MountBase, host_of
from fuse_mounter.drivers.options import Options, Source, flags, refusing

#: Where buckets are when it is told no `endpoint-url` (each region has its own host).
_AMAZON = "https://s3.amazonaws.com"
_OURS = {"profile": "write credentials.profile"}


class MountS3Credentials(Section):
    """`shared_file`: an AWS credentials file; `profile` in it."""

    shared_file: HostPath
    profile: str = "default"


class MountS3Mount(MountBase):
    """`source`: the bucket. Without credentials the machine's role is used. `options` by their long
    names, without the dashes, such as `region`, `endpoint-url`, `prefix`, `cache`.
    """

    driver: Literal["mount-s3"]
    source: Source
    credentials: MountS3Credentials | None = None
    options: Annotated[Options, refusing(_OURS)] = Field(default_factory=dict)


class MountS3(ClientDriver[MountS3Mount]):
    """The driver."""

    def preflight(self, mount: MountS3Mount, host: HostFs) -> AgentError | None:
        found = needs.fuse(host) or needs.program(
            "mount-s3", package="mount-s3 of Amazon (it is not in Debian)"
        )
        if found is None and mount.credentials is not None:
            return needs.secret(mount.credentials.shared_file, "credentials.shared_file")
        return found

    def server(self, mount: MountS3Mount) -> str | None:
        return host_of(str(mount.options.get("endpoint-url", _AMAZON)))

    def launch(self, mount: MountS3Mount, staging: Path, host: HostFs) -> Launch:
        options = {
            **mount.options,
            "foreground": True,
            "allow-other": True,
            "read-only": mount.read_only,
        }
        environment = {}
        if mount.credentials is not None:
            environment["AWS_SHARED_CREDENTIALS_FILE"] = str(mount.credentials.shared_file)
            environment["AWS_PROFILE"] = mount.credentials.profile
        argv = ("mount-s3", mount.source, str(staging), *flags(options))
        return Launch(argv, environment)
