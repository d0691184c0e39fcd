# SPDX-License-Identifier: Apache-2.0
"""The section `fuse_mounter` of the configuration. What a driver's entry holds is the driver's own
(`fuse_mounter.drivers`); here is what they have in common, and what must hold between them.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from itertools import combinations
from pathlib import PurePath, PurePosixPath
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from agents import hostfs
from agents.config import Duration, OwnDirectory, Section
from fuse_mounter.credentials.config import Credentials
from fuse_mounter.drivers.base import SourceMount
from fuse_mounter.drivers.registry import MountConfig, driver_of
from fuse_mounter.scratch.config import ScratchRule

_SHORTEST_LOOK_S = 0.1
_LONGEST_REQUEST_S = 65535  # it is kept in 16 bits


class Health(Section):
    """When a mount counts as hung, and how often that is looked at."""

    #: A probe that has no answer for this long makes the mount hung: it is aborted and replaced.
    hang_after: Duration = 10.0
    #: A healthy mount is probed this often (at once when requests pile up).
    probe_every: Duration = 10.0
    #: A client that has not mounted after this long is killed.
    start_limit: Duration = 30.0
    #: So many mounts of this node may be starting in the same moment; the others wait their turn.
    restarts_at_once: Annotated[int, Field(ge=1, strict=True)] = 4
    #: The kernel's own limit for FUSE requests (`fs.fuse.default_request_timeout`, Linux 6.15), set
    #: for the whole node: None leaves it as it is.
    request_timeout: Duration | None = None

    @field_validator("request_timeout")
    @classmethod
    def _whole_seconds(cls, value: float | None) -> float | None:
        if value is not None and not 1 <= value <= _LONGEST_REQUEST_S:
            raise ValueError(
                f"{value:g} s is not between 1 s and {_LONGEST_REQUEST_S} s; leave it out to leave "
                "the kernel's setting alone"
            )
        return value

    @field_validator("hang_after", "probe_every", "start_limit")
    @classmethod
    def _positive(cls, value: float) -> float:
        if value <= 0:
            raise ValueError("0 would never let a mount live; write a duration such as 10s")
        return value


class Heal(enum.Enum):
    """What becomes of a container that still sees a dead mount, for it bound the wrong thing."""

    REPORT = "report"
    HEAL = "heal"  # the healthy one is put over it, from outside


class PodsConfig(Section):
    """The pods' side."""

    heal: Heal = Heal.REPORT
    #: How often new containers are looked for (at once when a mount has changed).
    look_every: Duration = 10.0

    @field_validator("look_every")
    @classmethod
    def _now_and_then(cls, value: float) -> float:
        if value < _SHORTEST_LOOK_S:
            raise ValueError(f"{value:g} s would never let it rest; write 100ms or more")
        return value


class MounterConfig(Section):
    """`root` is the shared parent: pods bind it, or a folder of it, with HostToContainer."""

    root: OwnDirectory = hostfs.STATE_DIR / "mounts"
    mounts: tuple[MountConfig, ...] = ()
    health: Health = Health()
    pods: PodsConfig = PodsConfig()
    credentials: Credentials = Credentials()
    scratch: tuple[ScratchRule, ...] = ()

    @model_validator(mode="after")
    def _patient(self) -> MounterConfig:
        """The kernel gives up no request before the client of its mount would have recovered."""
        limit = self.health.request_timeout
        for mount in self.mounts if limit is not None else ():
            window = driver_of(mount).recovery_window_s(mount)
            if limit is not None and limit <= window:
                raise ValueError(
                    f"health.request_timeout {limit:g} s would break mount {mount.name!r}, whose "
                    f"client needs up to {window:g} s to get over a server that is away; use more "
                    "than that"
                )
        return self

    @model_validator(mode="after")
    def _proved(self) -> MounterConfig:
        """A token is tried on a mount that there is."""
        known = [mount.name for mount in self.mounts]
        for token in self.credentials.tokens:
            if token.prove is not None and token.prove.mount not in known:
                there = ", ".join(known) or "none"
                raise ValueError(
                    f"credentials: tokens: {token.name!r} is to be proved on mount "
                    f"{token.prove.mount!r}, which is not there; there are {there}"
                )
        return self

    @model_validator(mode="after")
    def _apart(self) -> MounterConfig:
        """Names and paths differ, no mount lies in another, and none serves the root itself."""
        problems = list(self._overlapping())
        for position, mount in enumerate(self.mounts):
            for other in self.mounts[:position]:
                if mount.name == other.name:
                    problems.append(f"two mounts are called {mount.name!r}; names must differ")
            if isinstance(mount, SourceMount) and _overlap(mount.source, self.root):
                problems.append(
                    f"{mount.name!r} serves {str(mount.source)!r}, which overlaps the root "
                    f"{str(self.root)!r}: it would contain itself; use another source"
                )
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _overlapping(self) -> Iterator[str]:
        places = [
            (mount.name, PurePosixPath(path)) for mount in self.mounts for path in mount.paths
        ]
        for (name, path), (other_name, other) in combinations(places, 2):
            if _overlap(path, other):
                yield (
                    f"{other_name!r} at {str(other)!r} and {name!r} at {str(path)!r} overlap; give "
                    "them separate paths"
                )

    @model_validator(mode="after")
    def _scratch_is_somewhere(self) -> MounterConfig:
        """Each rule names a mount that is there, and no two clean the same place."""
        names = [mount.name for mount in self.mounts]
        for position, rule in enumerate(self.scratch):
            if rule.mount is not None and rule.mount not in names:
                known = ", ".join(names) or "none"
                raise ValueError(
                    f"scratch: there is no mount {rule.mount!r}; there are {known}; or name a "
                    "directory of this node"
                )
            for other in self.scratch[:position]:
                if _overlap(PurePosixPath(rule.name), PurePosixPath(other.name)):
                    raise ValueError(
                        f"scratch: {rule.name!r} and {other.name!r} overlap; one rule with paths "
                        "can say what goes when"
                    )
        return self


def _overlap(one: PurePath, other: PurePath) -> bool:
    first, second = one.parts, other.parts
    shortest = min(len(first), len(second))
    return first[:shortest] == second[:shortest]
