# SPDX-License-Identifier: Apache-2.0
"""Seccomp profiles as people read of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agents import tables
from agents.tables import Table
from lxcfs_helper.affinity.profile_files import localhost_profile
from lxcfs_helper.affinity.profiles import Marked, Profile, marked


def listing(
    wanted: Sequence[Profile], problems: Sequence[str], installed: Mapping[str, Marked]
) -> str:
    """What a configuration makes, next to what is installed, and what cannot be made."""
    rows = [
        [
            localhost_profile(one.name),
            _state(one, installed),
            ", ".join(one.left_out) or tables.UNKNOWN,
        ]
        for one in wanted
    ]
    known = {one.name for one in wanted}
    rows += [
        [localhost_profile(name), "installed, no longer configured", tables.UNKNOWN]
        for name in sorted(installed.keys() - known)
    ]
    columns = ("localhostProfile", "state", "not notified, because refused")
    return "\n".join([*tables.lines([Table("Seccomp profiles", columns, rows)]), *problems])


def _state(profile: Profile, installed: Mapping[str, Marked]) -> str:
    there = installed.get(profile.name)
    if there is None:
        return "not installed"
    own = marked(profile.document["listenerMetadata"])
    return "installed" if there == own else "another one is installed"
