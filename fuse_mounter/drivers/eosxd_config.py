# SPDX-License-Identifier: Apache-2.0
"""What an entry of `eosxd` may say, and the configuration that the client gets from it. Pure.

The client ignores what it does not know, and then does not do what one meant: so only keys go in
that its code reads, as strict JSON. Every start of a client has an instance name of its own, and
with it its own configuration, statistics, caches and store of credentials.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from agents import hostfs
from agents.config import HostPath, Section
from fuse_mounter.drivers.base import MountBase, private_name
from fuse_mounter.drivers.eosxd_keys import checked

#: What eosxd takes when it is not told otherwise, as root.
DEFAULT_DESCRIPTORS = 524_288
DEFAULT_FLUSH_S = 120

_MGM_PORT = 1094
_MGM = re.compile(r"(?:root://)?([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::(\d{1,5}))?/*")


def _hostport(value: str) -> str:
    match = _MGM.fullmatch(value)
    if match is None or not 0 < int(match[2] or 1) < 65536:
        raise ValueError(f"{value!r} is not a server such as root://eos.example.org:1094")
    return f"{match[1]}:{match[2]}" if match[2] else match[1]


def _absolute(value: str) -> str:
    if not value.startswith("/") or not value.isprintable():
        raise ValueError(f"{value!r} is not an absolute path of EOS, such as /eos/")
    return value


class EosxdOptions(Section):
    """`mgm`: the management server. `client`: further keys of eosxd's own configuration, by
    section (`options`, `auth`, `cache`, `recovery`, `xrdcl`, `inline`) or above them."""

    mgm: Annotated[str, AfterValidator(_hostport)]
    remote_path: Annotated[str, AfterValidator(_absolute)] = "/eos/"
    client: Annotated[dict[str, Any], BeforeValidator(checked)] = Field(default_factory=dict)


class EosxdCredentials(Section):
    """`sss_keytab`: tokens ride on it too; without one nobody but nobody is known to EOS.
    `encryption_key`: a file with the key for files that are kept encrypted."""

    sss_keytab: HostPath | None = None
    encryption_key: HostPath | None = None


class EosxdMount(MountBase):
    driver: Literal["eosxd"]
    options: EosxdOptions
    credentials: EosxdCredentials = EosxdCredentials()

    @model_validator(mode="after")
    def _key_is_used(self) -> EosxdMount:
        if self.credentials.sss_keytab is not None and not self.uses("sss"):
            raise ValueError(
                "credentials.sss_keytab is given, and options.client.auth.sss is 0: eosxd would "
                "not look at it, and tokens need it too; leave one of them out"
            )
        return self

    @property
    def source(self) -> str:
        """What people see of it."""
        return f"root://{self.options.mgm}/{self.options.remote_path}"

    def client_key(self, section: str, key: str, default: Any) -> Any:
        """What the client is told, or takes by itself."""
        return self.options.client.get(section, {}).get(key, default)

    def client_seconds(self, section: str, key: str, default: float) -> float:
        """The same for a time."""
        return float(self.client_key(section, key, default))

    def uses(self, way: str) -> bool:
        """Whether a way of authentication that is on by default stays on."""
        return bool(self.client_key("auth", way, 1))


def server_of(mount: EosxdMount) -> tuple[str, int]:
    """Host and port of the management server."""
    match = _MGM.fullmatch(mount.options.mgm)
    assert match is not None
    return match[1].strip("[]"), int(match[2] or _MGM_PORT)


def configuration(mount: EosxdMount, staging: Path, encryption_key: str | None) -> str:
    """The file that the client for `staging` reads: strict JSON."""
    client = {
        key: dict(value) if isinstance(value, Mapping) else value
        for key, value in mount.options.client.items()
    }
    cached, journal, credentials = own_directories(staging)
    client.setdefault("options", {})["jsonstats"] = 1  # our health signal
    auth = client.setdefault("auth", {})
    auth.setdefault("shared-mount", 1)
    auth["credential-store"] = f"{credentials}/"
    if mount.credentials.sss_keytab is not None:
        auth["ssskeytab"] = str(mount.credentials.sss_keytab)
    cache = client.setdefault("cache", {})
    cache.setdefault("type", "disk")
    cache["location"], cache["journal"] = f"{cached}/", f"{journal}/"
    if encryption_key is not None:
        client["encryptionkey"] = encryption_key
    whole = {
        **client,
        "name": private_name(staging),
        "hostport": mount.options.mgm,
        "remotemountdir": mount.options.remote_path,
        "localmountdir": str(staging),
        "statfilepath": str(statistics_file(staging)),
    }
    return json.dumps(whole, indent=2, sort_keys=True, allow_nan=False) + "\n"


def own_directories(staging: Path) -> tuple[Path, Path, Path]:
    """Of the client for `staging`: its cache, its journal, its copies of users' credentials."""
    own = hostfs.EOS_CACHES / private_name(staging)
    return own / "cache", own / "journal", own / "credential-store"


def statistics_file(staging: Path) -> Path:
    """In words; beside it is one in JSON, with that suffix."""
    return staging.parents[1] / "clients" / f"{staging.name}.stats"
