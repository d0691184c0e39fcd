# SPDX-License-Identifier: Apache-2.0
"""`nfs`: an export by the kernel's own client. No process serves it.

`hard` unless told otherwise: a program waits for a server that is away, as for a slow disk, and
loses nothing. `soft` makes of every pause an error in the middle of somebody's file, and does not
even end the waiting while a server still acknowledges packets.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator

from agents import command
from agents.errors import AgentError, Unavailable
from agents.hostfs import HostFs
from agents.mounts import Mounts, Propagation
from agents.threads import Worker
from fuse_mounter.drivers import needs
from fuse_mounter.drivers.base import Launch, MountBase
from fuse_mounter.drivers.options import Source

#: `noresvport`: a connection that was lost is made anew without waiting for its old port.
_DEFAULTS = ("hard", "timeo=600", "retrans=2", "noresvport", "noatime")
_OPPOSITE = {"soft": "hard", "softerr": "hard", "resvport": "noresvport", "atime": "noatime"}
#: `mount.nfs` tries for minutes by itself; we do that, and tell how it goes.
_ONCE = "retry=0"
_LIMIT_S = 20.0


def _words(options: tuple[str, ...]) -> tuple[str, ...]:
    for option in options:
        if not option or "," in option or not option.isprintable():
            raise ValueError(f"{option!r} is not one option; write a list of them")
    return options


class NfsMount(MountBase):
    """`source`: `host:/export`. `options` as of nfs(5), such as `vers=4.2`, `nconnect=4`,
    `sec=krb5`; what they do not say is said by the defaults.
    """

    driver: Literal["nfs"]
    source: Source
    options: Annotated[tuple[str, ...], AfterValidator(_words)] = ()


def all_options(mount: NfsMount) -> tuple[str, ...]:
    """The defaults as far as nothing contradicts them, then what was asked for."""
    asked = {option.partition("=")[0] for option in mount.options}
    opposed = {_OPPOSITE[name] for name in asked & _OPPOSITE.keys()}
    defaults = (o for o in _DEFAULTS if o.partition("=")[0] not in asked | opposed)
    return (*defaults, *mount.options, _ONCE, "ro" if mount.read_only else "rw")


class Nfs:
    """The driver."""

    has_client = False

    def preflight(self, mount: NfsMount, host: HostFs) -> AgentError | None:
        return needs.program("mount.nfs", package="nfs-common")

    def launch(self, mount: NfsMount, staging: Path, host: HostFs) -> Launch:
        raise NotImplementedError("it has no client")

    def written(self, staging: Path) -> tuple[Path, ...]:
        return ()

    async def stage(self, mount: NfsMount, staging: Path, mounts: Mounts, worker: Worker) -> None:
        argv = ["mount.nfs", mount.source, str(staging), "-o", ",".join(all_options(mount))]
        result = await command.run(argv, timeout_s=_LIMIT_S)
        if not result.ok:
            raise Unavailable(f"cannot mount {mount.source!r}: {result.describe()}")
        mounts.set_propagation(staging, Propagation.PRIVATE)
