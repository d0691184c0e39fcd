# SPDX-License-Identifier: Apache-2.0
"""`cvmfs`: a repository of CernVM-FS by its client, cvmfs2. Always read-only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from agents.config import HostPath
from agents.errors import AgentError
from agents.hostfs import HostFs
from fuse_mounter.drivers import needs
from fuse_mounter.drivers.base import SOURCE_PREFIX, ClientDriver, Launch, MountBase
from fuse_mounter.drivers.options import Source, Value, mount_options

_PARAMETER = re.compile(r"CVMFS_[A-Z0-9_]+")
_BROKEN = re.compile(r"[\0-\037'\177]")


def _parameters(values: dict[str, str]) -> dict[str, str]:
    for key, value in values.items():
        if not _PARAMETER.fullmatch(key):
            raise ValueError(f"{key!r} is not a parameter; they begin with CVMFS_")
        if _BROKEN.search(value):
            raise ValueError(f"{key}: {value!r} has a quote or a control character")
    return values


class CvmfsMount(MountBase):
    """`source`: the repository, such as `atlas.cern.ch`. `parameters` (`CVMFS_HTTP_PROXY` at least)
    come after `base`, the node's own configuration, if there is one.
    """

    driver: Literal["cvmfs"]
    source: Source
    parameters: Annotated[dict[str, str], AfterValidator(_parameters)] = Field(default_factory=dict)
    base: HostPath | None = None


class Cvmfs(ClientDriver[CvmfsMount]):
    """The driver."""

    def preflight(self, mount: CvmfsMount, host: HostFs) -> AgentError | None:
        return (
            needs.fuse(host)
            or needs.program("cvmfs2", package="cvmfs of CERN (it is not in Debian)")
            or (needs.readable(mount.base, "base") if mount.base else None)
        )

    def launch(self, mount: CvmfsMount, staging: Path, host: HostFs) -> Launch:
        (written,) = self.written(staging)
        text = "".join(f"{key}='{value}'\n" for key, value in mount.parameters.items())
        configuration = [str(mount.base)] if mount.base else []
        options: dict[str, Value] = {
            "config": ":".join([*configuration, str(written)]),
            "fsname": f"{SOURCE_PREFIX}{mount.name}",
            "allow_other": True,
            "ro": True,
        }
        argv = ("cvmfs2", "-f", "-o", mount_options(options), mount.source, str(staging))
        return Launch(argv, files={written: text})

    def written(self, staging: Path) -> tuple[Path, ...]:
        return (staging.parents[1] / "clients" / f"{staging.name}.cvmfs",)
