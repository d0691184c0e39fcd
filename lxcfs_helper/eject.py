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
from agents.namespaces import Namespaces, NoAnswer
from agents.processes import ProcessKey
from lxcfs_helper.files import ViewFiles, is_of_any_agent, is_ours

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
        count, reasons = _clear(host, namespaces, key, files.source)
        taken += count
        places += count > 0
        problems += [f"process {key.pid}: {reason}" for reason in reasons]
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
        return _ours(mountinfo.read(host.proc, pid), source)
    except OSError:
        return ()


def _ours(entries: Sequence[MountEntry], source: str) -> tuple[MountEntry, ...]:
    """A cgroup's own file does not say who attached it: where another agent shows its views, and we
    show none, it is that agent's."""
    found = tuple(entry for entry in entries if is_ours(entry, source))
    own = any(entry.source == source for entry in found)
    return found if own or not any(is_of_any_agent(entry) for entry in entries) else ()


def _clear(
    host: HostFs, namespaces: Namespaces, key: ProcessKey, source: str
) -> tuple[int, list[str]]:
    """How many mounts were taken away, and what could not be, in words."""
    taken, failed = 0, dict[Path, str]()
    wanted = {Path(entry.mount_point) for entry in ours(host, key.pid, source)}
    try:
        for _ in range(_ROUNDS):
            entries = mountinfo.read(host.proc, key.pid)
            mine = [at for at in wanted - failed.keys() if _on_top(entries, at, source)]
            if not mine:
                break
            for place in mine:
                try:
                    _detach(host, namespaces, key, place)
                    taken += 1
                except (NoAnswer, ProcessLookupError):
                    raise
                except (OSError, Unavailable) as error:
                    failed[place] = f"{str(place)!r}: {error}"
    except ProcessLookupError:  # it ended, and its mounts with it
        return taken, []
    except (OSError, Unavailable) as error:
        return taken, [*failed.values(), str(error)]
    return taken, [*failed.values()]


def _detach(host: HostFs, namespaces: Namespaces, key: ProcessKey, place: Path) -> None:
    with processes.pinned(host.proc, key) as pidfd:
        if pidfd is None:
            raise ProcessLookupError
        namespaces.detach(pidfd, place)


def _on_top(entries: Sequence[MountEntry], place: Path, source: str) -> bool:
    """Whether a mount of ours can be taken away there; what others put over one stays."""
    stack = mountinfo.at(entries, place)
    return bool(stack) and is_ours(stack[-1], source)


def _namespace(host: HostFs, pid: str) -> int | None:
    try:
        return (host.proc / pid / "ns/mnt").stat().st_ino
    except OSError:
        return None
