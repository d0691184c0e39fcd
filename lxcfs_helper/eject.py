# SPDX-License-Identifier: Apache-2.0
"""Take away every trace: our mounts in every mount namespace of the host, then the tmpfs itself.

Asks nobody who runs here: it looks at the mounts of every process, once for each namespace. The
agent must not be running, or it would put everything back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents import mountinfo, processes
from agents.errors import Unavailable
from agents.hostfs import HostFs
from agents.mountinfo import MountEntry
from agents.namespaces import Namespaces
from agents.processes import ProcessKey
from lxcfs_helper.files import ViewFiles, is_ours

#: One unmount may bring to light another; more rounds than anyone stacks.
_ROUNDS = 64


@dataclass(frozen=True, slots=True)
class Ejected:
    """How many mounts were taken away in how many namespaces, and what could not be, in words."""

    mounts: int
    namespaces: int
    problems: tuple[str, ...]


def eject(host: HostFs, namespaces: Namespaces, files: ViewFiles) -> Ejected:
    """Remove everything that any agent of ours attached. Goes on after a problem."""
    taken, places, problems = 0, 0, []
    for key in _one_of_each_namespace(host, files.source):
        try:
            count = _clear(host, namespaces, key, files.source)
        except ProcessLookupError:  # it ended, and its mounts with it
            continue
        except (OSError, Unavailable) as error:
            problems.append(f"process {key.pid}: {error}")
            continue
        taken += count
        places += count > 0
    try:
        files.unmount()
    except OSError as error:
        problems.append(f"{str(files.directory)!r}: {error.strerror}")
    return Ejected(taken, places, tuple(problems))


def _one_of_each_namespace(host: HostFs, source: str) -> Iterator[ProcessKey]:
    """One process of every mount namespace but our own, in which anything of ours is mounted."""
    seen = {_namespace(host, "self")}
    for pid in processes.pids(host.proc):
        namespace = _namespace(host, str(pid))
        if namespace in seen or namespace is None:
            continue
        key = processes.identify(host.proc, pid)
        if key is None:
            continue
        seen.add(namespace)
        if ours(host, pid, source):
            yield key


def ours(host: HostFs, pid: int, source: str) -> tuple[MountEntry, ...]:
    """The mounts of ours that a process sees; none when it is gone."""
    try:
        entries = mountinfo.read(host.proc, pid)
    except OSError:
        return ()
    return tuple(entry for entry in entries if is_ours(entry, source))


def _clear(host: HostFs, namespaces: Namespaces, key: ProcessKey, source: str) -> int:
    taken = 0
    for _ in range(_ROUNDS):
        mine = _on_top(mountinfo.read(host.proc, key.pid), source)
        if not mine:
            break
        with processes.pinned(host.proc, key) as pidfd:
            if pidfd is None:
                raise ProcessLookupError
            for place in mine:
                namespaces.detach(pidfd, place)
                taken += 1
    return taken


def _on_top(entries: Sequence[MountEntry], source: str) -> list[Path]:
    """Where a mount of ours can be taken away; what others put over one stays."""
    places = {entry.mount_point for entry in entries if is_ours(entry, source)}
    return [Path(place) for place in places if is_ours(mountinfo.at(entries, place)[-1], source)]


def _namespace(host: HostFs, pid: str) -> int | None:
    try:
        return (host.proc / pid / "ns/mnt").stat().st_ino
    except OSError:
        return None
