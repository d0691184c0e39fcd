# SPDX-License-Identifier: Apache-2.0
"""What the times of files tell on a file system, from how it is mounted and what was tried. Pure.

`relatime` (the kernel's default) moves an access time at most once a day, `noatime` never, and
caches of network file systems serve reads of which the server hears nothing (mount(8), nfs(5)).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from agents.mountinfo import MountEntry
from fuse_mounter.scratch.config import Clock, ScratchRule

DAY_S = 86400.0
#: An age below this means little where an access may show a day late.
LEAST_WITH_RELATIME_S = 3 * DAY_S

_NETWORK = (
    "nfs",
    "cifs",
    "smb",
    "ceph",
    "lustre",
    "gpfs",
    "beegfs",
    "afs",
    "9p",
    "fuse",
    "virtiofs",
)


class Access(enum.Enum):
    """What the access times of a file system are worth."""

    EXACT = "exact"
    DAILY = "daily"  # relatime: moved once a day, or after a modification
    FROZEN = "frozen"  # noatime: the last one before it was mounted so
    CACHED = "cached"  # a network file system: reads from the cache of a node do not count


@dataclass(frozen=True, slots=True)
class Reading:
    """Which clock is used, in words, and why it cannot be used (None: it can)."""

    access: Access
    text: str
    problem: str | None = None


def access_of(entry: MountEntry) -> Access:
    """From the options that apply to the whole mount; those of a folder (`nodiratime`) do not
    concern files.
    """
    if "noatime" in entry.options or "noatime" in entry.super_options:
        return Access.FROZEN
    if entry.fstype.startswith(_NETWORK):
        return Access.CACHED
    return Access.DAILY if "relatime" in entry.options else Access.EXACT


def reading(rule: ScratchRule, entry: MountEntry, tried: Access | None = None) -> Reading:
    """How the rule's clock is to be understood on this mount. `tried`: what reading a file there
    did to its time of access (None: nobody tried).
    """
    access = access_of(entry)
    if rule.clock is not Clock.USED:
        return Reading(access, _WITHOUT_ACCESS[rule.clock])
    text = _WITH_ACCESS[access]
    if tried is Access.FROZEN and access is not Access.FROZEN:
        return Reading(tried, f"{_WITH_ACCESS[tried]}, and reading a file there moved nothing")
    daily = Access.DAILY in (access, tried) or "relatime" in entry.options
    shortest = _shortest(rule)
    if daily and shortest < LEAST_WITH_RELATIME_S:
        return Reading(
            access,
            text,
            f"{shortest / DAY_S:.3g} days are less than 3 on a file system mounted with relatime, "
            "where an access shows up to a day late: files in use would go; use a longer "
            "older_than, clock: modified, or mount it with strictatime",
        )
    return Reading(access, text)


def _shortest(rule: ScratchRule) -> float:
    paths = [each.older_than for each in rule.paths if each.older_than is not None]
    free = [] if rule.keep_free is None else [rule.keep_free.not_within]
    return min([rule.older_than, *(each.older_than for each in rule.sizes), *paths, *free])


_WITHOUT_ACCESS = {
    Clock.MODIFIED: "the last modification",
    Clock.CHANGED: "the last modification or change of status, whichever is later",
}
_WITH_ACCESS = {
    Access.EXACT: "the last access or modification, whichever is later",
    Access.DAILY: "the last access or modification; an access shows up to a day late (relatime)",
    Access.FROZEN: "the last modification: this file system notes no access (noatime)",
    Access.CACHED: "the last access or modification, as the server knows them: what a node reads "
    "from its cache does not count",
}
