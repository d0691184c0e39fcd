# SPDX-License-Identifier: Apache-2.0
"""`eosxd`: an EOS instance by its FUSE client, with the identity of whoever asks.

The client reads `<directory>/fuse.<instance>.conf`, picked by `-ofsname=<instance>`: strict JSON
that is written here, from keys that it is known to read (the client ignores what it does not know,
and then does not do what one meant). It is started on a private place: on the one that pods see it
would unmount a dead predecessor itself, and lose them.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from agents import hostfs
from agents.config import HostPath, Section
from agents.errors import AgentError, Unavailable
from agents.hostfs import HostFs
from fuse_mounter.drivers import needs
from fuse_mounter.drivers.base import ClientDriver, Launch, MountBase
from fuse_mounter.drivers.eosxd_keys import KEYS

_MGM = re.compile(r"(?:root://)?([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:\d{1,5})?/*")
_PACKAGE = "eos-fusex of CERN (it is not in Debian)"


def _hostport(value: str) -> str:
    match = _MGM.fullmatch(value)
    if match is None:
        raise ValueError(f"{value!r} is not a server such as root://eos.example.org:1094")
    return match[1] + (match[2] or "")


def _absolute(value: str) -> str:
    if not value.startswith("/") or not value.isprintable():
        raise ValueError(f"{value!r} is not an absolute path of EOS, such as /eos/")
    return value


def _known(value: Mapping[str, Any]) -> Mapping[str, Any]:
    problems = []
    for section, keys in value.items():
        if section not in KEYS:
            problems.append(_unknown(section, KEYS, "sections"))
            continue
        if not isinstance(keys, dict):
            problems.append(f"{section}: {keys!r} is not a mapping of keys to values")
            continue
        problems += [
            f"{section}.{_unknown(key, KEYS[section], 'keys')}"
            for key in keys
            if key not in KEYS[section]
        ]
    if problems:
        raise ValueError("; ".join(problems))
    return value


def _unknown(key: str, known: Any, what: str) -> str:
    close = difflib.get_close_matches(key, known, 1)
    elsewhere = [section for section, keys in KEYS.items() if key in keys]
    if elsewhere:
        hint = f"it belongs to {elsewhere[0]}"
    else:
        hint = f"did you mean {close[0]!r}?" if close else f"known {what}: {', '.join(known)}"
    return f"{key}: eosxd does not read this key; {hint}"


ClientKeys = Annotated[dict[str, dict[str, Any]], BeforeValidator(_known)]


class EosxdOptions(Section):
    """`mgm`: the management server. `client`: further keys of eosxd's own configuration, by
    section (`options`, `auth`, `cache`, `recovery`, `xrdcl`, `inline`)."""

    mgm: Annotated[str, AfterValidator(_hostport)]
    remote_path: Annotated[str, AfterValidator(_absolute)] = "/eos/"
    client: Annotated[dict[str, dict[str, Any]], BeforeValidator(_known)] = Field(
        default_factory=dict
    )


class EosxdCredentials(Section):
    """`sss_keytab`: tokens ride on it too; without one nobody but nobody is known to EOS."""

    sss_keytab: HostPath | None = None


class EosxdMount(MountBase):
    driver: Literal["eosxd"]
    options: EosxdOptions
    credentials: EosxdCredentials = EosxdCredentials()


class Eosxd(ClientDriver):
    """The driver."""

    def preflight(self, mount: EosxdMount, host: HostFs) -> AgentError | None:
        return (
            needs.fuse(host)
            or needs.program("eosxd3", "eosxd", package=_PACKAGE)
            or needs.helper(*hostfs.FUSE_HELPERS, package="fuse3")
            or _keytab(mount)
            or _namespaces(host)
        )

    def launch(self, mount: EosxdMount, staging: Path, host: HostFs) -> Launch:
        instance, (written,) = _instance(staging), self.written(staging)
        text = json.dumps(configuration(mount, instance, staging), indent=2, sort_keys=True) + "\n"
        program = needs.which("eosxd3", "eosxd")
        return Launch((program, f"-ofsname={instance}", "-f", str(staging)), files={written: text})

    def written(self, staging: Path) -> tuple[Path, ...]:
        return (hostfs.EOS_CONFIGURATION / f"fuse.{_instance(staging)}.conf",)


def _instance(staging: Path) -> str:
    return staging.name.replace("@", "-")  # '@' would make it a user's address


def configuration(mount: EosxdMount, instance: str, staging: Path) -> dict[str, Any]:
    """What the client reads. Pure."""
    client = {section: dict(keys) for section, keys in mount.options.client.items()}
    options = client.setdefault("options", {})
    options.setdefault("jsonstats", 1)  # our health signal
    auth = client.setdefault("auth", {})
    auth.setdefault("shared-mount", 1)
    if mount.credentials.sss_keytab is not None:
        auth["ssskeytab"] = str(mount.credentials.sss_keytab)
    return {
        **client,
        "name": instance,
        "hostport": mount.options.mgm,
        "remotemountdir": mount.options.remote_path,
        "localmountdir": str(staging),
    }


def _keytab(mount: EosxdMount) -> AgentError | None:
    """A default keytab that is missing turns off `sss` and `oauth2`, with a mere warning."""
    if mount.credentials.sss_keytab is not None:
        return needs.secret(mount.credentials.sss_keytab, "credentials.sss_keytab")
    auth = mount.options.client.get("auth", {})
    wanted = [name for name in ("sss", "oauth2") if auth.get(name, 1)]
    if not wanted or hostfs.EOS_KEYTAB.exists():
        return None
    return Unavailable(
        f"{str(hostfs.EOS_KEYTAB)!r} is missing: eosxd would turn off {' and '.join(wanted)}, and "
        "everybody would be nobody",
        remedy="name a keytab in credentials.sss_keytab, or set sss and oauth2 to 0 in "
        "options.client.auth",
    )


def _namespaces(host: HostFs) -> AgentError | None:
    """The client looks into the calling process: it has to see all of the node's processes."""
    try:
        own, init = ((host.proc / pid / "ns/pid").stat().st_ino for pid in ("self", "1"))
    except OSError:
        return None
    if own == init:
        return None
    return Unavailable(
        "this agent has a pid namespace of its own: eosxd would not see who asks, nor his token",
        remedy="run it with hostPID: true",
    )
