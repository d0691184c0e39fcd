# SPDX-License-Identifier: Apache-2.0
"""`s3fs`: a bucket by s3fs(1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from agents.config import HostPath, Section
from agents.errors import AgentError
from agents.hostfs import HostFs
from fuse_mounter.drivers import client_log, needs
from fuse_mounter.drivers.base import SOURCE_PREFIX, ClientDriver, Launch, MountBase, Sign, host_of
from fuse_mounter.drivers.options import Options, Source, Value, mount_options, refusing

#: Where s3fs looks when it is told no `url`.
_AMAZON = "https://s3.amazonaws.com"


#: What stands before an error in its log.
ERROR = re.compile(r"\[(ERR|CRT)\]\s+(\S+\.cpp:\w+\(\d+\): )?")
#: `retries`: it would try on for minutes before it says that a server is away.
_DEFAULTS: Mapping[str, Value] = {
    "retries": 2,
    "connect_timeout": 20,
    "readwrite_timeout": 60,
    "dbglevel": "err",
}
_OURS = {"passwd_file": "write credentials.passwd_file"}


def _defaults(asked: Mapping[str, Value]) -> dict[str, Value]:
    # With either version it answers wrong keys by a second try in the old way, for minutes.
    return dict(_DEFAULTS) if "sigv2" in asked else {**_DEFAULTS, "sigv4": True}


class S3fsCredentials(Section):
    """`passwd_file`: one line, `ACCESS_KEY:SECRET_KEY`; s3fs demands mode 0600 or less."""

    passwd_file: HostPath


class S3fsMount(MountBase):
    """`source`: `bucket` or `bucket:/prefix`. `options` as of s3fs' `-o`, such as `url`."""

    driver: Literal["s3fs"]
    source: Source
    credentials: S3fsCredentials
    options: Annotated[Options, refusing(_OURS)] = Field(default_factory=dict)


class S3fs(ClientDriver[S3fsMount]):
    """The driver."""

    def preflight(self, mount: S3fsMount, host: HostFs) -> AgentError | None:
        return (
            needs.fuse(host)
            or needs.program("s3fs", package="s3fs")
            or needs.secret(mount.credentials.passwd_file, "credentials.passwd_file")
        )

    def server(self, mount: S3fsMount) -> str | None:
        return host_of(str(mount.options.get("url", _AMAZON)))

    def launch(self, mount: S3fsMount, staging: Path, host: HostFs) -> Launch:
        options = {
            **_defaults(mount.options),
            **mount.options,
            "passwd_file": str(mount.credentials.passwd_file),
            "fsname": f"{SOURCE_PREFIX}{mount.name}",
            "allow_other": True,
            "ro": mount.read_only,
        }
        return Launch(("s3fs", mount.source, str(staging), "-f", "-o", mount_options(options)))

    def sign(
        self, mount: S3fsMount, device: tuple[int, int], staging: Path, host: HostFs
    ) -> Sign | None:
        return client_log.complaint(client_log.of(staging, mount.name), ERROR)
