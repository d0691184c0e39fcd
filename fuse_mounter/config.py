# SPDX-License-Identifier: Apache-2.0
"""The section `fuse_mounter` of the configuration. What a driver's entry holds is the driver's own
(`fuse_mounter.drivers`); here is what they have in common, and what must hold between them.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from pydantic import field_validator, model_validator

from agents import hostfs
from agents.config import Duration, HostPath, Section
from fuse_mounter.drivers.base import SourceMount
from fuse_mounter.drivers.registry import MountConfig


class Health(Section):
    """When a mount counts as hung, and how often that is looked at."""

    #: A probe that has no answer for this long makes the mount hung: it is aborted and replaced.
    hang_after: Duration = 10.0
    #: A healthy mount is probed this often (at once when requests pile up).
    probe_every: Duration = 10.0
    #: A client that has not mounted after this long is killed.
    start_limit: Duration = 30.0

    @field_validator("hang_after", "probe_every", "start_limit")
    @classmethod
    def _positive(cls, value: float) -> float:
        if value <= 0:
            raise ValueError("0 would never let a mount live; write a duration such as 10s")
        return value


class MounterConfig(Section):
    """`root` is the shared parent: pods bind it, or a folder of it, with HostToContainer."""

    root: HostPath = hostfs.STATE_DIR / "mounts"
    mounts: tuple[MountConfig, ...] = ()
    health: Health = Health()

    @field_validator("root")
    @classmethod
    def _deep_enough(cls, value: HostPath) -> HostPath:
        if len(value.parts) < 3:
            raise ValueError(f"{str(value)!r} is too close to the root of the node; use a folder")
        return value

    @model_validator(mode="after")
    def _apart(self) -> MounterConfig:
        """Names and paths differ, no mount lies in another, and none serves the root itself."""
        problems: list[str] = []
        for position, mount in enumerate(self.mounts):
            for other in self.mounts[:position]:
                if mount.name == other.name:
                    problems.append(f"two mounts are called {mount.name!r}; names must differ")
                if _overlap(mount.path, other.path):
                    problems.append(
                        f"{mount.name!r} at {mount.path!r} and {other.name!r} at {other.path!r} "
                        "overlap; give them separate paths"
                    )
            if isinstance(mount, SourceMount) and _overlap(str(mount.source), str(self.root)):
                problems.append(
                    f"{mount.name!r} serves {str(mount.source)!r}, which overlaps the root "
                    f"{str(self.root)!r}: it would contain itself; use another source"
                )
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _overlap(one: str, other: str) -> bool:
    first, second = PurePosixPath(one).parts, PurePosixPath(other).parts
    shortest = min(len(first), len(second))
    return first[:shortest] == second[:shortest]
