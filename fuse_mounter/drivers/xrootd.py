# SPDX-License-Identifier: Apache-2.0
"""`xrootd`: an XRootD server or cluster by xrootdfs(1).

With a key of `anybody` the server believes the name of the local user who asks; with any other key
everybody is that key's user. The client gives up root for `user`, which has to own the key file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from agents.config import HostPath, Section
from agents.errors import AgentError
from agents.hostfs import HostFs
from fuse_mounter.drivers import needs
from fuse_mounter.drivers.base import SOURCE_PREFIX, ClientDriver, Launch, MountBase, host_of
from fuse_mounter.drivers.eosxd_keys import KEYS
from fuse_mounter.drivers.options import Options, Source, mount_options, refusing

#: XRootD's own default: so long a connection is tried before a request fails.
_CONNECTION_WINDOW_S = 120
_OURS = {
    "rdr": "write source",
    "uid": "write user",
    "sss": "write credentials.sss_keytab",
}


class XrootdCredentials(Section):
    """`sss_keytab`: keys of XRootD's shared secrets. `bearer_token_file`: one token for all."""

    sss_keytab: HostPath | None = None
    bearer_token_file: HostPath | None = None


def _known(settings: dict[str, int]) -> dict[str, int]:
    if unknown := sorted(settings.keys() - KEYS["xrdcl"]):
        raise ValueError(f"{unknown[0]!r} is none of {', '.join(sorted(KEYS['xrdcl']))}")
    return settings


class XrootdMount(MountBase):
    """`source`: `root://host[:port]//directory`. `xrdcl`: how patient the client is with its
    server, by the names of XRootD's own configuration, such as `RequestTimeout` (seconds).
    """

    driver: Literal["xrootd"]
    source: Source
    user: str = "daemon"
    #: Certificates of authorities, as OpenSSL has them in a directory (`openssl rehash`), for
    #: servers that speak TLS; None: where the client looks, /etc/grid-security/certificates.
    ca_directory: HostPath | None = None
    credentials: XrootdCredentials = XrootdCredentials()
    xrdcl: Annotated[dict[str, int], AfterValidator(_known)] = Field(default_factory=dict)
    options: Annotated[Options, refusing(_OURS)] = Field(default_factory=dict)

    @field_validator("source")
    @classmethod
    def _url(cls, value: str) -> str:
        if not value.startswith(("root://", "roots://", "xroot://", "xroots://")):
            raise ValueError(f"{value!r} is not a URL such as root://host//directory")
        return value


class Xrootd(ClientDriver[XrootdMount]):
    """The driver."""

    def preflight(self, mount: XrootdMount, host: HostFs) -> AgentError | None:
        keytab, token = mount.credentials.sss_keytab, mount.credentials.bearer_token_file
        return (
            needs.fuse(host)
            or needs.program("xrootdfs", package="xrootd-fuse")
            or (_readable(keytab, "sss_keytab", mount) if keytab else None)
            or (_readable(token, "bearer_token_file", mount) if token else None)
        )

    def server(self, mount: XrootdMount) -> str | None:
        return host_of(mount.source)

    def recovery_window_s(self, mount: XrootdMount) -> float:
        return float(mount.xrdcl.get("ConnectionWindow", _CONNECTION_WINDOW_S))

    def launch(self, mount: XrootdMount, staging: Path, host: HostFs) -> Launch:
        credentials = mount.credentials
        options = {
            **mount.options,
            "rdr": mount.source,
            "uid": mount.user,
            "sss": str(credentials.sss_keytab) if credentials.sss_keytab else False,
            "fsname": f"{SOURCE_PREFIX}{mount.name}",
            "ro": mount.read_only,
        }
        environment = {f"XRD_{key.upper()}": str(n) for key, n in mount.xrdcl.items()}
        if mount.ca_directory is not None:
            environment["X509_CERT_DIR"] = str(mount.ca_directory)
        if credentials.bearer_token_file is not None:
            environment["BEARER_TOKEN_FILE"] = str(credentials.bearer_token_file)
        return Launch(("xrootdfs", str(staging), "-f", "-o", mount_options(options)), environment)


def _readable(path: Path, key: str, mount: XrootdMount) -> AgentError | None:
    return needs.secret(path, f"credentials.{key}", owner=mount.user)
