# SPDX-License-Identifier: Apache-2.0
"""What every driver is: its part of the configuration, how it mounts at a staging path, and what
its client tells of itself.

A driver knows nothing of publishing, holder or probes. It mounts at the path it is given and
nowhere else: what pods see is attached from there.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar

from pydantic import field_validator, model_validator

from agents.config import HostPath, Section
from agents.errors import AgentError
from agents.hostfs import HostFs
from agents.mounts import Mounts
from agents.threads import Worker
from fuse_mounter.shared_folder import SharedFolder, below

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

_HOST = re.compile(r"([a-z0-9+]+://)?([^/@]*@)?(?P<host>\[[0-9A-Fa-f:.%]+\]|[^/@:\[\]]+)(?=[:/]|$)")

#: What mount tables show as the source of our own mounts, before the name.
SOURCE_PREFIX = "nodeshare:"


class MountBase(Section):
    """What all entries of `mounts` have. `source` is named by those drivers that need one."""

    driver: str
    name: str
    #: Where pods see it, relative to the root.
    path: str
    read_only: bool = False
    #: Other names under which pods see it, or folders in it.
    publish: tuple[SharedFolder, ...] = ()

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError(
                f"{value!r} is not a name; use lower-case letters, digits and '-', at most 63"
            )
        return value

    @field_validator("path")
    @classmethod
    def _relative(cls, value: str) -> str:
        return below(value, "the root", "scratch")

    @model_validator(mode="after")
    def _can_be_kept(self) -> MountBase:
        for shared in self.publish:
            if self.read_only and shared.changes:
                raise ValueError(
                    f"publish {shared.path!r}: owner, group, mode, default_acl and create write to "
                    "the mount, which is read_only; leave them out, or let the mount be writable "
                    "and publish it read_only"
                )
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        """All names under which pods see it, its own first."""
        return (self.path, *(shared.path for shared in self.publish))

    @property
    def digest(self) -> str:
        """Changes with everything that needs another client; names and paths do not."""
        text = self.model_dump_json(exclude={"name", "path", "publish"})
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def host_of(source: str) -> str | None:
    """The host in `scheme://user@host:port/…`, `user@host:/…` or `host:/…`; None: it names none."""
    match = _HOST.match(source)
    return match["host"].strip("[]").lower() if match else None


def private_name(staging: Path) -> str:
    """What belongs to one start of a client has this name, also where other agents keep theirs."""
    return f"{staging.name.replace('@', '-')}{private_suffix(staging.parent)}"


def private_suffix(directory: Path) -> str:
    """How the names end that belong to the staging places in one directory."""
    return f"-{zlib.crc32(str(directory).encode()):08x}"


class SourceMount(MountBase):
    """An entry that serves a directory of this node."""

    source: HostPath


@dataclass(frozen=True, slots=True)
class Launch:
    """How a client is started: everybody on the node can read `argv`, so no secret goes there.

    `end_limit_s`: when it was asked to end, it is killed after this long; longer for those who may
    still hold what their server does not have.

    The client stays in the foreground. `environment` is added to what every client gets: names of
    files, never what is in them. `files` are written, and `directories` made, before the start, for
    root alone.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[Path, str] = field(default_factory=dict)
    directories: tuple[Path, ...] = ()
    end_limit_s: float = 3.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """One sample of a metric. `name`: without the prefix `nodeshare_mount_`, in base units.
    `labels`: names and values, beside the label `mount`; all samples of a name have the same names.
    """

    name: str
    help: str
    kind: Literal["gauge", "counter"]
    value: float
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Sign:
    """What a client, or the kernel, tells of a mount without being asked. `suspicion`: why it
    should be probed at once; None: there is no reason to.
    """

    suspicion: str | None = None
    measurements: tuple[Measurement, ...] = ()


M = TypeVar("M", bound=MountBase, contravariant=True)


class Driver(Protocol, Generic[M]):
    """One kind of mount."""

    @property
    def caches(self) -> Path | None:
        """Where its clients have directories, called by `cache_name`: gone when the client is, and
        the mount, unless they are `precious`. None: they have none, or clean up themselves.
        """

    def cache_name(self, staging: Path) -> str:
        """What the directory of the client at `staging` is called; it ends in `private_suffix`."""

    def precious(self, cache: Path) -> bool:
        """Whether this directory holds what the server does not have. May take long."""

    @property
    def has_client(self) -> bool:
        """True: a process serves the mount, started from `launch`. False: `stage` is all."""

    def preflight(self, mount: M, host: HostFs) -> AgentError | None:
        """Why this mount cannot be made on this machine now, with the remedy; None when it can.

        Never blocks: it may look at kernel file systems, not at the source.
        """

    def launch(self, mount: M, staging: Path, host: HostFs) -> Launch:
        """The client that mounts at `staging`."""

    def written(self, staging: Path) -> tuple[Path, ...]:
        """Where `launch` has files written for a client at `staging`; gone when it is retired."""

    async def stage(self, mount: M, staging: Path, mounts: Mounts, worker: Worker) -> None:
        """Mount at `staging`, within a limit; what may block belongs into `worker`, which is this
        mount's own. Raises OSError or AgentError.
        """

    def server(self, mount: M) -> str | None:
        """Whose trouble all mounts of the same server share (its host); None: nobody's but its own.
        Pure.
        """

    def recovery_window_s(self, mount: M) -> float:
        """How long its client may take, by its own settings, to get over a server that is away: no
        request of it may be given up before. 0: it has no such patience. Pure.
        """

    def sign(self, mount: M, device: tuple[int, int], staging: Path, host: HostFs) -> Sign | None:
        """What its client or the kernel tells of the mount at `staging`, which has this device
        number; None: nothing is told. Reads local statistics only, never the mount. Raises OSError
        or ValueError when they cannot be read.
        """


class Silent(Generic[M]):
    """What most drivers have in common: no server that others share, nothing that is told, and
    nothing that stays behind."""

    caches: Path | None = None

    def cache_name(self, staging: Path) -> str:
        return private_name(staging)

    def precious(self, cache: Path) -> bool:
        return False

    def server(self, mount: M) -> str | None:
        return None

    def recovery_window_s(self, mount: M) -> float:
        return 0.0

    def sign(self, mount: M, device: tuple[int, int], staging: Path, host: HostFs) -> Sign | None:
        return None


class ClientDriver(Silent[M]):
    """What all drivers have in common whose mounts are served by a client."""

    has_client = True

    def written(self, staging: Path) -> tuple[Path, ...]:
        return ()

    async def stage(self, mount: M, staging: Path, mounts: Mounts, worker: Worker) -> None:
        raise NotImplementedError("a client mounts it")


class KernelDriver(Silent[M]):
    """What all drivers have in common whose mounts are served by the kernel."""

    has_client = False

    def written(self, staging: Path) -> tuple[Path, ...]:
        return ()

    def launch(self, mount: M, staging: Path, host: HostFs) -> Launch:
        raise NotImplementedError("it has no client")
