# SPDX-License-Identifier: Apache-2.0
"""The command line of a mount's client, if the process is still the one that was started for it."""

from __future__ import annotations

from collections.abc import Sequence

from agents.hostfs import HostFs
from fuse_mounter.places import NAME_VARIABLE


def command_line(host: HostFs, pid: int | None, mount: str) -> Sequence[str]:
    """Empty: there is no such process, or it is not ours to look at."""
    if pid is None:
        return ()
    try:
        environment = (host.of_pid(pid) / "environ").read_bytes().split(b"\0")
        words = (host.of_pid(pid) / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return ()
    if f"{NAME_VARIABLE}={mount}".encode() not in environment:
        return ()
    return [word.decode(errors="replace") for word in words]
