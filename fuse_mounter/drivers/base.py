# SPDX-License-Identifier: Apache-2.0
"""What every driver is: its part of the configuration, and how it mounts at a staging path.

A driver knows nothing of publishing, holder or health. It mounts at the path it is given and
nowhere else: what pods see is attached from there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Generic, Protocol, TypeVar

from pydantic import field_validator

from agents.config import HostPath, Section
from agents.errors import AgentError
from agents.hostfs import HostFs
from agents.mounts import Mounts
from agents.threads import Worker

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

#: What mount tables show as the source of our own mounts, before the name.
SOURCE_PREFIX = "nodeshare:"


class MountBase(Section):
    """What all entries of `mounts` have. `source` is named by those drivers that need one."""

    driver: str
    name: str
    #: Where pods see it, relative to the root.
    path: str
    read_only: bool = False

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
        path = PurePosixPath(value)
        if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in value:
            raise ValueError(f"{value!r} is not a path below the root; write such as 'scratch'")
        return str(path)

    @property
    def digest(self) -> str:
        """Changes with everything that needs another client; name and path do not."""
        text = self.model_dump_json(exclude={"name", "path"})
        return hashlib.sha256(text.encode()).hexdigest()[:8]


class SourceMount(MountBase):
    """An entry that serves a directory of this node."""

    source: HostPath


@dataclass(frozen=True, slots=True)
class Launch:
    """How a client is started: everybody on the node can read `argv`, so no secret goes there.

    The client stays in the foreground. `environment` is added to what every client gets: names of
    files, never what is in them. `files` are written before the start, for root alone.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[Path, str] = field(default_factory=dict)


M = TypeVar("M", bound=MountBase, contravariant=True)


class Driver(Protocol, Generic[M]):
    """One kind of mount."""

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


class ClientDriver:
    """What all drivers have in common whose mounts are served by a client."""

    has_client = True

    def written(self, staging: Path) -> tuple[Path, ...]:
        return ()

    async def stage(self, mount: MountBase, staging: Path, mounts: Mounts, worker: Worker) -> None:
        raise NotImplementedError("a client mounts it")
