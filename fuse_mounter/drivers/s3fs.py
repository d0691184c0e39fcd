# SPDX-License-Identifier: Apache-2.0
"""`s3fs`: a bucket by s3fs(1)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from agents.config import HostPath, Section
from agents.errors import AgentError
from agents.hostfs import HostFs
from fuse_mounter.drivers import needs
from fuse_mounter.drivers.base import SOURCE_PREFIX, ClientDriver, Launch, MountBase
from fuse_mounter.drivers.options import Options, Source, mount_options


class S3fsCredentials(Section):
    """`passwd_file`: one line, `ACCESS_KEY:SECRET_KEY`; s3fs demands mode 0600 or less."""

    passwd_file: HostPath


class S3fsMount(MountBase):
    """`source`: `bucket` or `bucket:/prefix`. `options` as of s3fs' `-o`, such as `url`."""

    driver: Literal["s3fs"]
    source: Source
    credentials: S3fsCredentials
    options: Options = Field(default_factory=dict)


class S3fs(ClientDriver):
    """The driver."""

    def preflight(self, mount: S3fsMount, host: HostFs) -> AgentError | None:
        return (
            needs.fuse(host)
            or needs.program("s3fs", package="s3fs")
            or needs.secret(mount.credentials.passwd_file, "credentials.passwd_file")
        )

    def launch(self, mount: S3fsMount, staging: Path, host: HostFs) -> Launch:
        options = {
            **mount.options,
            "passwd_file": str(mount.credentials.passwd_file),
            "fsname": f"{SOURCE_PREFIX}{mount.name}",
            "allow_other": True,
            "ro": mount.read_only,
        }
        return Launch(("s3fs", mount.source, str(staging), "-f", "-o", mount_options(options)))
