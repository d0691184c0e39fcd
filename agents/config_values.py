# SPDX-License-Identifier: Apache-2.0
"""What configuration is made of: the strict base of every section, and values with units. Knows no
section.
"""

from __future__ import annotations

import ipaddress
import re
import reprlib
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

# More digits than anybody means would overflow, and lose their last ones on the way.
_NUMBER = r"(\d{1,18}(?:\.\d{1,9})?)"
_DURATION = re.compile(rf"{_NUMBER}(ms|s|m|h|d)", re.ASCII)
_quoting = reprlib.Repr()
_quoting.maxstring = _quoting.maxother = _quoting.maxlong = 80
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(rf"{_NUMBER}\s*(B|KiB|MiB|GiB|TiB)", re.ASCII)
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def shown(value: object) -> str:
    """A value as an error text quotes it: a whole section in the wrong place is cut short."""
    return _quoting.repr(value)


def parse_duration(value: object) -> object:
    """`200ms`, `2s`, `5m`, `48h`, `30d` to seconds. Bare numbers are refused: they have no unit (0
    has none).
    """
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        return float(match[1]) * _SECONDS[match[2]]
    if not isinstance(value, bool) and value == 0:
        return 0.0
    raise ValueError(
        f"{shown(value)} is not a duration; write a number with ms, s, m, h or d, such as 2s"
    )


def parse_size(value: object) -> object:
    """`512MiB`, `1GiB` to bytes. Bare numbers other than 0 are refused."""
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        return int(Decimal(match[1]) * _BYTES[match[2]])
    if not isinstance(value, bool) and value == 0:
        return 0
    raise ValueError(
        f"{shown(value)} is not a size; write a number with B, KiB, MiB, GiB or TiB, such as 1GiB"
    )


def _absolute(value: Path) -> Path:
    if not value.is_absolute() or ".." in value.parts:
        raise ValueError(f"{str(value)!r} is not an absolute path without '..'")
    return value


def ip_address(value: object) -> object:
    try:
        return str(ipaddress.ip_address(str(value)))
    except ValueError:
        raise ValueError(f"{shown(value)} is not an IP address, such as 0.0.0.0 or ::1") from None


def _deep_enough(value: Path) -> Path:
    if len(value.parts) < 3:
        raise ValueError(f"{str(value)!r} is too close to the root of the node; use a folder")
    return value


#: Seconds, written with a unit.
Duration = Annotated[float, BeforeValidator(parse_duration)]
#: Bytes, written with a unit.
Size = Annotated[int, BeforeValidator(parse_size)]
#: In the context of a validation: whether the section is for an agent that runs.
FOR_RUNNING = "for_running"

#: A path on the host.
HostPath = Annotated[Path, AfterValidator(_absolute)]
#: A folder of our own: never one near the root, which others use too.
OwnDirectory = Annotated[HostPath, AfterValidator(_deep_enough)]
#: Strict, because YAML's `yes` would else be port 1.
Port = Annotated[int, Field(ge=0, le=65535, strict=True)]


class Section(BaseModel):
    """What every part of the configuration is: frozen, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
