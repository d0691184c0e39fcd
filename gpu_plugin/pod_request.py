# SPDX-License-Identifier: Apache-2.0
"""Pods as a person writes them on a command line: `8`, `gpu-memory=20`, `a=1,b=2`, `4*3`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agents.errors import ConfigError

#: More than any node runs; a typing error would else keep the command busy for minutes.
MOST_PODS = 10_000
_REPEATED = re.compile(r"(.+?)\*(\d{1,18})")
_SIZE = re.compile(r"\d{1,9}")


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod with one container: units by resource name, in the order in which they are
    allocated.
    """

    name: str
    asks: Mapping[str, int]


def parse(words: Iterable[str], resources: Sequence[str]) -> tuple[Pod, ...]:
    """The pods in their order, named `pod-1` and on. `resources` are the full names that exist.

    Raises ConfigError with what is wrong and how it is written.
    """
    pods: list[Pod] = []
    for word in words:
        asks, count = _one(word, resources)
        if len(pods) + count > MOST_PODS:
            raise ConfigError(f"--pod {word!r}: more than {MOST_PODS} pods in all")
        pods += [Pod(f"pod-{len(pods) + number}", asks) for number in range(1, count + 1)]
    return tuple(pods)


def _one(word: str, resources: Sequence[str]) -> tuple[dict[str, int], int]:
    request, count = word.strip(), 1
    if match := _REPEATED.fullmatch(request):
        request, count = match[1].strip(), int(match[2])
    asks: dict[str, int] = {}
    for part in request.split(","):
        name, equals, size = part.rpartition("=")
        full = _full_name(word, name.strip() if equals else None, resources)
        if full in asks:
            raise ConfigError(f"--pod {word!r}: {full} is asked for twice; write the sum")
        asks[full] = _units(word, size.strip())
    if count == 0:
        raise ConfigError(f"--pod {word!r}: repeated 0 times; leave it out")
    return asks, count


def _units(word: str, size: str) -> int:
    if not _SIZE.fullmatch(size) or int(size) == 0:
        raise ConfigError(
            f"--pod {word!r}: {size!r} is not a number of units",
            remedy="write SIZE, RESOURCE=SIZE or SIZE*TIMES, such as 8, gpu-memory=20 or 4*3; "
            "SIZE is a whole number of units, as in a pod's limits",
        )
    return int(size)


def _full_name(word: str, name: str | None, resources: Sequence[str]) -> str:
    known = ", ".join(resources)
    if name is None:
        if len(resources) != 1:
            raise ConfigError(
                f"--pod {word!r}: it names no resource, and there are {len(resources)}",
                remedy=f"write RESOURCE=SIZE with one of {known}",
            )
        return resources[0]
    if name in resources:
        return name
    found = [full for full in resources if full.rpartition("/")[2] == name]
    if len(found) > 1:
        raise ConfigError(
            f"--pod {word!r}: {name!r} may be {' or '.join(found)}", remedy="write the full name"
        )
    if not found:
        raise ConfigError(
            f"--pod {word!r}: the configuration has no resource {name!r}", remedy=f"it has {known}"
        )
    return found[0]
