# SPDX-License-Identifier: Apache-2.0
"""Which device numbers were those of our clients' mounts: how a dead mount that a container still
sees is known as ours, also by the next agent.

As long as somebody sees a mount its device number is nobody else's; and it is compared with what
mount tables say of it besides. Losing the file loses the power to heal what was dead before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from agents import mountinfo
from agents.mountinfo import MountEntry
from fuse_mounter.bindings import Past
from fuse_mounter.drivers.base import MountBase
from fuse_mounter.observe import is_anchor

Device = tuple[int, int]


def of(host: Sequence[MountEntry], root: Path, mounts: Sequence[MountBase]) -> dict[Device, Past]:
    """Those that the node shows now. What lies on an anchor is ours, and what is like it on that;
    the kernel's own file systems have no device of their own, and do not die.
    """
    table, found = mountinfo.by_place(host), {}
    for mount in mounts:
        for path in mount.paths:
            stack = table.get(str(root / path), ())
            if len(stack) < 2 or not is_anchor(stack[0]):
                continue
            looks = stack[1].fstype, stack[1].source
            for entry in stack[1:]:
                if entry.fstype.startswith("fuse") and (entry.fstype, entry.source) == looks:
                    found[entry.device] = Past(mount.name, *looks)
    return found


def read(file: Path) -> dict[Device, Past]:
    """Of an agent before this one. What cannot be read is not known."""
    try:
        rows = json.loads(file.read_text())
        return {(int(r[0]), int(r[1])): Past(str(r[2]), str(r[3]), str(r[4])) for r in rows}
    except (OSError, ValueError, TypeError, IndexError, KeyError):
        return {}


def write(file: Path, past: Mapping[Device, Past]) -> None:
    """Whole or not at all."""
    rows = [[*device, one.mount, one.fstype, one.source] for device, one in sorted(past.items())]
    aside = file.with_suffix(".new")
    with suppress(OSError):  # a full disk: then only this agent knows
        aside.write_text(json.dumps(rows))
        aside.replace(file)
