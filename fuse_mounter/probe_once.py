# SPDX-License-Identifier: Apache-2.0
"""One probe without an agent: of what a former agent left mounted, from its staging directories,
whose names say what they are for. Bounded like all probes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import trio

from agents import mountinfo
from agents.hostfs import HostFs
from fuse_mounter.places import Places, StagingName
from fuse_mounter.probe import Prober


def staged(places: Places, host: HostFs) -> Mapping[str, Path]:
    """The newest instance of each mount, by its name. Looks at the kernel's table alone."""
    found: dict[str, tuple[int, Path]] = {}
    for entry in mountinfo.below(mountinfo.read(host.proc), places.staging):
        path = Path(entry.mount_point)
        name = StagingName.parse(path.name) if path.parent == places.staging else None
        if name is not None:
            found[name.name] = max(found.get(name.name, (0, path)), (name.number, path))
    return {name: path for name, (_, path) in found.items()}


async def probe(place: Path, limit_s: float) -> tuple[bool, str]:
    """Whether it answers well, and what it said."""
    prober = Prober(limit_s)
    try:
        with trio.CancelScope() as first_word:  # what hangs may be out for ever
            await prober.ask(str(place), place, first_word.cancel)
    finally:
        prober.close()
    last = prober.last(str(place))
    if last is None:
        return False, "nobody could be sent to ask it"
    number = last.answer.number
    why = f": {errno.errorcode.get(number, number)} ({os.strerror(number)})" if number else ""
    took = f" in {last.seconds * 1000:.1f} ms" if not why else ""
    return not why and last.health.value == "ok", f"{last.health.value}{why}{took}"
