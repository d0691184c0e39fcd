# SPDX-License-Identifier: Apache-2.0
"""`sshfs`: a directory of another machine over SSH (SFTP). The client is sshfs(1).

One account for everybody: whatever a user does there, he does as the one who owns the key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from agents.config import HostPath, Section
from agents.errors import AgentError
from agents.hostfs import HostFs
from fuse_mounter.drivers import needs
from fuse_mounter.drivers.base import SOURCE_PREFIX, ClientDriver, Launch, MountBase, host_of
from fuse_mounter.drivers.options import Options, Source, mount_options, refusing

#: A server that says nothing for 45 s is gone; then the client ends, and another one is started.
_DEFAULTS = {"ServerAliveInterval": 15, "ServerAliveCountMax": 3, "ConnectTimeout": 10}
_OURS = {
    "IdentityFile": "write credentials.identity_file",
    "UserKnownHostsFile": "write credentials.known_hosts",
    "StrictHostKeyChecking": "leave it out: the server's key is always checked",
    "BatchMode": "leave it out: nobody is there to type",
    "password_stdin": "write credentials.identity_file: nobody is there to type",
    "default_permissions": "leave it out: modes always count",
}


class SshfsCredentials(Section):
    """`identity_file`: the private key. `known_hosts`: the server's key, checked strictly."""

    identity_file: HostPath
    known_hosts: HostPath


class SshfsMount(MountBase):
    """`source`: `user@host:/directory`."""

    driver: Literal["sshfs"]
    source: Source
    credentials: SshfsCredentials
    options: Annotated[Options, refusing(_OURS)] = Field(default_factory=dict)

    @field_validator("options")
    @classmethod
    def _patience_is_a_number(cls, value: Options) -> Options:
        for key in _DEFAULTS.keys() & value.keys():
            if isinstance(value[key], bool) or not str(value[key]).isdigit():
                raise ValueError(f"{key!r}: {value[key]!r} is not a number (of seconds, or times)")
        return value


class Sshfs(ClientDriver[SshfsMount]):
    """The driver."""

    def preflight(self, mount: SshfsMount, host: HostFs) -> AgentError | None:
        return (
            needs.fuse(host)
            or needs.program("sshfs", package="sshfs")
            or needs.secret(mount.credentials.identity_file, "credentials.identity_file")
            or needs.readable(mount.credentials.known_hosts, "credentials.known_hosts")
        )

    def server(self, mount: SshfsMount) -> str | None:
        return host_of(mount.source)

    def recovery_window_s(self, mount: SshfsMount) -> float:
        settings = {**_DEFAULTS, **mount.options}
        return float(settings["ServerAliveInterval"]) * float(settings["ServerAliveCountMax"])

    def launch(self, mount: SshfsMount, staging: Path, host: HostFs) -> Launch:
        options = {
            **_DEFAULTS,
            **mount.options,
            "IdentityFile": str(mount.credentials.identity_file),
            "UserKnownHostsFile": str(mount.credentials.known_hosts),
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",  # never wait for somebody who types
            "fsname": f"{SOURCE_PREFIX}{mount.name}",
            "allow_other": True,
            "default_permissions": True,
            "ro": mount.read_only,
        }
        return Launch(("sshfs", mount.source, str(staging), "-f", "-o", mount_options(options)))
