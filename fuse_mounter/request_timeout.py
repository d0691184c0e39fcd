# SPDX-License-Identifier: Apache-2.0
"""The kernel's own limit for FUSE requests, `fs.fuse.default_request_timeout` (Linux 6.15): a
safety net for clients that nobody here wrote. It holds for the whole node, and for a connection
from its beginning on; the kernel looks every 15 s, so it may be that much later.

Written only when that was asked for; what it was before is told. Knows no mount.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from agents.hostfs import HostFs


@dataclass(frozen=True, slots=True)
class RequestTimeout:
    """`seconds`: what the kernel goes by now (0: no limit); None: it has no such limit. `before`:
    what it was when this agent changed it; None: it did not. `problem`: why it could not.
    """

    seconds: int | None = None
    before: int | None = None
    problem: str | None = None


def apply(host: HostFs, wanted_s: float | None, last: RequestTimeout) -> RequestTimeout:
    """Set it, if it is wanted and not so; `last` is what came of that before."""
    file = host.fuse_request_timeout
    try:
        now = int(file.read_text())
    except (OSError, ValueError):
        problem = "this kernel has no limit for FUSE requests (Linux 6.15 has)"
        return RequestTimeout(problem=None if wanted_s is None else problem)
    if wanted_s is None or now == (seconds := math.ceil(wanted_s)):
        return RequestTimeout(now, last.before)
    try:
        file.write_text(str(seconds))
        found = int(file.read_text())
    except (OSError, ValueError) as error:
        return RequestTimeout(now, last.before, f"{str(file)!r} cannot be set: {error}")
    if found != seconds:
        return RequestTimeout(found, now, f"the kernel made {found} s of {seconds} s")
    return RequestTimeout(found, now)
