# SPDX-License-Identifier: Apache-2.0
"""All drivers, by the name that the configuration uses."""

from __future__ import annotations

from typing import Any

from fuse_mounter.drivers.base import Driver, MountBase
from fuse_mounter.drivers.bind import Bind
from fuse_mounter.drivers.passthrough import Passthrough

# Any: each takes its own kind of entry, and the configuration has paired them.
DRIVERS: dict[str, Driver[Any]] = {"bind": Bind(), "passthrough": Passthrough()}


def driver_of(mount: MountBase) -> Driver[Any]:
    return DRIVERS[mount.driver]
