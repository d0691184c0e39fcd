# SPDX-License-Identifier: Apache-2.0
"""`command`: any other client that stays in the foreground and mounts at the place it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from agents.config import HostPath
from agents.errors import AgentError
from agents.hostfs import HostFs
from fuse_mounter.drivers import needs
from fuse_mounter.drivers.base import ClientDriver, Launch, MountBase
from fuse_mounter.drivers.options import refuse_secrets, refuse_secrets_in_environment

_HERE = "{mountpoint}"
_READ_ONLY = "{ro}"


def _template(words: tuple[str, ...]) -> tuple[str, ...]:
    if not any(_HERE in word for word in words):
        raise ValueError(f"no word has {_HERE}: that is where the client has to mount")
    refuse_secrets(words)
    return words


def _names_of_files(values: dict[str, str]) -> dict[str, str]:
    refuse_secrets_in_environment(values)
    return values


class CommandMount(MountBase):
    """`command`: its words; `{mountpoint}` stands for the place, `{ro}` for `ro` or `rw`.
    `environment`: names of files, never secrets. `needs`: files that have to be there.
    """

    driver: Literal["command"]
    command: Annotated[tuple[str, ...], Field(min_length=2), AfterValidator(_template)]
    environment: Annotated[dict[str, str], AfterValidator(_names_of_files)] = Field(
        default_factory=dict
    )
    needs: tuple[HostPath, ...] = ()


class Command(ClientDriver[CommandMount]):
    """The driver."""

    def preflight(self, mount: CommandMount, host: HostFs) -> AgentError | None:
        program = mount.command[0]
        found = needs.fuse(host) or needs.program(program, package=f"what {program!r} is part of")
        for path in mount.needs:
            found = found or needs.readable(path, "needs")
        return found

    def launch(self, mount: CommandMount, staging: Path, host: HostFs) -> Launch:
        access = "ro" if mount.read_only else "rw"
        words = (
            word.replace(_HERE, str(staging)).replace(_READ_ONLY, access) for word in mount.command
        )
        return Launch(tuple(words), mount.environment)
