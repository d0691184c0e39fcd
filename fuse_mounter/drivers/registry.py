# SPDX-License-Identifier: Apache-2.0
"""All drivers, by the name that the configuration uses."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from fuse_mounter.drivers.base import Driver, MountBase
from fuse_mounter.drivers.bind import Bind, BindMount
from fuse_mounter.drivers.command import Command, CommandMount
from fuse_mounter.drivers.cvmfs import Cvmfs, CvmfsMount
from fuse_mounter.drivers.eosxd import Eosxd
from fuse_mounter.drivers.eosxd_config import EosxdMount
from fuse_mounter.drivers.mount_s3 import MountS3, MountS3Mount
from fuse_mounter.drivers.nfs import Nfs, NfsMount
from fuse_mounter.drivers.passthrough import Passthrough, PassthroughMount
from fuse_mounter.drivers.rclone import Rclone, RcloneMount
from fuse_mounter.drivers.s3fs import S3fs, S3fsMount
from fuse_mounter.drivers.sshfs import Sshfs, SshfsMount
from fuse_mounter.drivers.xrootd import Xrootd, XrootdMount

#: One entry of `mounts`; `driver` says which.
MountConfig = Annotated[
    BindMount
    | CommandMount
    | CvmfsMount
    | EosxdMount
    | MountS3Mount
    | NfsMount
    | PassthroughMount
    | RcloneMount
    | S3fsMount
    | SshfsMount
    | XrootdMount,
    Field(discriminator="driver"),
]

# Any: each takes its own kind of entry, and the configuration has paired them.
DRIVERS: dict[str, Driver[Any]] = {
    "bind": Bind(),
    "command": Command(),
    "cvmfs": Cvmfs(),
    "eosxd": Eosxd(),
    "mount-s3": MountS3(),
    "nfs": Nfs(),
    "passthrough": Passthrough(),
    "rclone": Rclone(),
    "s3fs": S3fs(),
    "sshfs": Sshfs(),
    "xrootd": Xrootd(),
}


def driver_of(mount: MountBase) -> Driver[Any]:
    return DRIVERS[mount.driver]
