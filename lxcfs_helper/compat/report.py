# SPDX-License-Identifier: Apache-2.0
"""What the process that serves the root tells of itself: a small file, which the agent reads. So no
agent ever has to read from a file system that may hang.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Report:
    """`device`: what is mounted; None: nothing yet. `virtual`: False after SIGUSR2.

    Counts since the start of the process: opens by path, host's values that were meant for a
    container by reason, reads that were answered with an error.
    """

    device: tuple[int, int] | None = None
    virtual: bool = True
    opens: Mapping[str, int] = field(default_factory=dict)
    fallbacks: Mapping[str, int] = field(default_factory=dict)
    errors: int = 0

    def write(self, path: Path) -> None:
        """Replace the file: a reader sees the old one or this one. Raises OSError."""
        new = path.with_name(f".{path.name}.new")
        new.write_text(json.dumps(asdict(self)))
        new.replace(path)


def read(path: Path) -> Report:
    """What was told last; nothing when there is no file, or another version's."""
    try:
        text: dict[str, Any] = json.loads(path.read_text())
        told = {name: text[name] for name in Report.__dataclass_fields__}
        major, minor = told["device"]
        return Report(**{**told, "device": (int(major), int(minor))})
    except (OSError, ValueError, TypeError, KeyError):
        return Report()
