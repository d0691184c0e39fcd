# SPDX-License-Identifier: Apache-2.0
"""How the double reads its configuration: where eosxd looks, and as leniently as it parses."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ETC = Path("/etc/eos")
DEFAULT_KEYTAB = Path("/etc/eos/fuse.sss.keytab")

#: Texts (kept), or what lies between tokens and is not JSON: comments, and commas before an end.
_LENIENT = re.compile(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/|,(?=\s*[}\]])', re.DOTALL)


class Invalid(Exception):
    """Ends with EINVAL."""


@dataclass(frozen=True)
class Configuration:
    """What the double makes of its file."""

    name: str
    hostport: str
    mount_point: Path
    statistics: Path
    json_statistics: bool
    credentials: Path
    directories: tuple[Path, ...]
    sss: bool
    oauth2: bool
    ztn: bool
    keytab: Path


def load(name: str, mount_point: Path | None) -> Configuration:
    """Raises Invalid."""
    if "@" in name or ":" in name:
        raise Invalid(f"{name!r} is an address, never the name of a configuration")
    document = _read(ETC / f"fuse.{name}.conf")
    local = ETC / f"fuse.{name}.local.conf"
    if local.exists():
        document = _merged(document, _read(local))
    if not isinstance(document.get("hostport"), str):
        raise Invalid("hostport is missing")
    place = mount_point or Path(document.get("localmountdir", ""))
    return _configuration(name, document, place)


def _configuration(name: str, document: dict[str, Any], place: Path) -> Configuration:
    auth, cache = document.get("auth", {}), document.get("cache", {})
    base = Path("/var/cache/eos/fusex")
    credentials = Path(auth.get("credential-store", base / "credential-store" / name))
    directories = (
        Path(cache.get("location", base / "cache" / name)),
        Path(cache.get("journal", base / "journal" / name)),
        credentials,
    )
    given = auth.get("ssskeytab")
    keytab = Path(given) if given else DEFAULT_KEYTAB
    # Only a default keytab that is missing turns them off.
    usable = given is not None or keytab.exists()
    suffix = document.get("statfilesuffix", "stats")
    dashes = str(place).replace("/", "-")
    statistics = Path(f"/var/log/eos/fusex/fuse.{name}{dashes}.{suffix}")
    return Configuration(
        name=name,
        hostport=document["hostport"],
        mount_point=place,
        statistics=Path(document.get("statfilepath", statistics)),
        json_statistics=bool(document.get("options", {}).get("jsonstats", 1)),
        credentials=credentials,
        directories=directories,
        sss=bool(auth.get("sss", 1)) and usable,
        oauth2=bool(auth.get("oauth2", 1)) and usable,
        ztn=bool(auth.get("ztn", 1)) and not auth.get("gsi-first", 0),
        keytab=keytab,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
    except OSError as error:
        raise Invalid(f"{path}: {error.strerror}") from error
    try:
        document = json.loads(_LENIENT.sub(lambda found: found[1] or "", text))
    except ValueError as error:
        raise Invalid(f"{path}: {error}") from error
    if not isinstance(document, dict):
        raise Invalid(f"{path}: not an object")
    return document


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    merged = dict(one)
    for key, value in other.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = {**merged[key], **value} if both else value
    return merged
