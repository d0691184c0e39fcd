# SPDX-License-Identifier: Apache-2.0
"""Where the mounter keeps what it makes, and what its things are called. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

#: Variables of a client, by which it is known again.
NAME_VARIABLE = "NODESHARE_MOUNT"
DIGEST_VARIABLE = "NODESHARE_CONFIG"
STAGING_VARIABLE = "NODESHARE_STAGING"
#: How long it may take to end, in seconds: it may hold data that its server does not have.
END_LIMIT_VARIABLE = "NODESHARE_END_LIMIT"

#: What mount tables show as the source of an anchor.
ANCHOR_SOURCE = "nodeshare-anchor"

_STAGING = re.compile(r"(?P<name>[a-z0-9-]+)@(?P<digest>[0-9a-f]+)\.(?P<number>[0-9]+)")


@dataclass(frozen=True, slots=True)
class StagingName:
    """The name of a staging directory says what it is for: nothing else has to be remembered."""

    name: str
    digest: str
    number: int

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}.{self.number}"

    @staticmethod
    def parse(text: str) -> StagingName | None:
        match = _STAGING.fullmatch(text)
        return match and StagingName(match["name"], match["digest"], int(match["number"]))


@dataclass(frozen=True, slots=True)
class Places:
    """`root` is what pods bind; everything else is private, below the run directory."""

    root: Path
    run_dir: Path

    @staticmethod
    def of(root: Path, run_dir: Path) -> Places:
        """As the mount table names them: without symlinks."""
        return Places(root.resolve(), run_dir.resolve())

    @property
    def own(self) -> Path:
        return self.run_dir / "mounts"

    @property
    def staging(self) -> Path:
        return self.own / "staging"

    @property
    def fusectl(self) -> Path:
        return self.own / "fusectl"

    @property
    def lock(self) -> Path:
        return self.own / "agent.lock"

    @property
    def clients(self) -> Path:
        """What is written for clients, and what they write of themselves."""
        return self.own / "clients"

    @property
    def layers(self) -> Path:
        """Which devices were those of our mounts, for the next agent."""
        return self.own / "layers.json"

    @property
    def drained(self) -> Path:
        """What an operator wants to be away, for the next agent."""
        return self.own / "drained.json"

    def log(self, name: str) -> Path:
        return self.own / "logs" / f"{name}.log"
