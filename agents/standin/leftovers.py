# SPDX-License-Identifier: Apache-2.0
"""Takes away every trace of a run that could not do so itself, because it was killed.

What is ours is known by marks, looked at again at the moment of the act: a process carries the
run's directory in its environment, or is in a cgroup below our parent; a mount lies below that
directory, and the directory was claimed by a run. Knows no agent and no container.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from agents import processes
from agents.hostfs import HostFs
from agents.processes import ProcessKey
from agents.standin import run_directory
from agents.standin.cgroup_tree import CgroupTree, hierarchies, remove_empty
from agents.standin.leftover_mounts import LeftoverMounts, within
from agents.standin.run_directory import RUN_DIR_VARIABLE

_PROCESSES_S = 10.0
#: A killed process that is still there after this waits for a server that will never answer.
_PATIENCE_S = 1.0
_PAUSE_S = 0.01


@dataclass(frozen=True, slots=True)
class Swept:
    """What was taken away, and (`remaining`, in words) what could not be."""

    processes: tuple[int, ...] = ()
    mounts: tuple[str, ...] = ()
    cgroups: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    remaining: tuple[str, ...] = ()

    def plus(self, other: Swept) -> Swept:
        """What both took away."""
        return Swept(
            self.processes + other.processes,
            self.mounts + other.mounts,
            self.cgroups + other.cgroups,
            self.paths + other.paths,
            self.remaining + other.remaining,
        )

    def describe(self) -> str:
        """One line; empty when there was nothing."""
        kinds = (
            ("processes", self.processes),
            ("mounts", self.mounts),
            ("cgroups", self.cgroups),
            ("directories", self.paths),
        )
        done = [f"{kind}: {len(items)}" for kind, items in kinds if items]
        text = f"removed what an earlier run left ({', '.join(done)})" if done else ""
        if self.remaining:
            text = f"{text}; " if text else ""
            text += f"cannot remove {', '.join(self.remaining)}"
        return text


def sweep(directory: Path, cgroup_parent: str, host: HostFs) -> Swept:
    """Remove all that a run with this directory and cgroup parent has left. Blocks; bounded.

    Nothing to do is no error, nor is something that resists: it is in `remaining`. Raises
    AgentError, before anything is touched, when directory or parent cannot be a run's.
    """
    settled = run_directory.settle(directory)
    run_directory.require_claimed(settled)
    mounts = LeftoverMounts(settled, host)
    tree = CgroupTree(host, cgroup_parent) if hierarchies(host.cgroup) else None
    ours = _Processes(settled, tree, mounts, host)
    killed, alive = ours.end()
    detached, attached = mounts.detach()
    remaining = [f"process {pid}" for pid in sorted(alive)]
    remaining += [f"mount {path!r}" for path in attached]
    cgroups: tuple[str, ...] = ()
    if tree is not None:
        cgroups = tree.existing()
        remaining += [f"cgroup {str(path)!r}" for path in tree.remove(tree.parent)]
    others = sorted(ours.cgroups - set(cgroups))
    others = [path for path in others if remove_empty(host.cgroup, path)]
    existed = settled.exists()
    if not attached:
        remaining += [f"{str(path)!r}" for path in run_directory.remove_tree(settled)]
    paths = (str(settled),) if existed and not settled.exists() else ()
    return Swept(tuple(sorted(killed)), detached, (*cgroups, *others), paths, tuple(remaining))


class _Processes:
    """The processes of a run: those that carry its mark, and those in its cgroups.

    `cgroups` are those of our name in which the former were, and which may be empty now.
    """

    def __init__(
        self, directory: Path, tree: CgroupTree | None, mounts: LeftoverMounts, host: HostFs
    ) -> None:
        self._directory, self._tree, self._mounts, self._proc = directory, tree, mounts, host.proc
        self._spared = _self_and_ancestors(host.proc)
        self.cgroups: set[str] = set()

    def end(self) -> tuple[set[int], set[int]]:
        """Kill them all, again and again until none is found: who was killed, and who is left."""
        started = time.monotonic()
        killed: set[int] = set()
        while True:
            marked = self._kill_marked()
            members, left = self._kill_members()
            killed |= marked | members
            alive = marked | left
            waited = time.monotonic() - started
            if not alive or waited > _PROCESSES_S:
                return killed - alive, alive
            if waited > _PATIENCE_S:
                self._mounts.abort_connections()
            threading.Event().wait(_PAUSE_S)

    def _kill_marked(self) -> set[int]:
        found = set()
        for pid in processes.pids(self._proc):
            key = None if pid in self._spared else processes.identify(self._proc, pid)
            if key is not None and self._is_marked(pid) and self._kill(key):
                found.add(pid)
        return found

    def _kill(self, key: ProcessKey) -> bool:
        with processes.pinned(self._proc, key) as descriptor:
            if descriptor is None or not self._is_marked(key.pid):
                return False
            self.cgroups |= _cgroups(self._proc, key.pid)
            try:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            except ProcessLookupError:
                return False
            return True

    def _kill_members(self) -> tuple[frozenset[int], frozenset[int]]:
        if self._tree is None:
            return frozenset(), frozenset()
        return self._tree.kill(self._tree.parent, timeout_s=_PATIENCE_S, spare=self._spared)

    def _is_marked(self, pid: int) -> bool:
        mark = f"{RUN_DIR_VARIABLE}=".encode()
        try:
            variables = (self._proc / str(pid) / "environ").read_bytes().split(b"\0")
        except OSError:  # gone, or not ours to look at
            return False
        return any(
            within(os.fsdecode(variable.removeprefix(mark)), self._directory)
            for variable in variables
            if variable.startswith(mark)
        )


def _cgroups(proc: Path, pid: int) -> set[str]:
    """The cgroup paths of a process, in all hierarchies, without the root."""
    try:
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return set()
    return {line.split(":", 2)[2] for line in lines} - {"/"}


def _self_and_ancestors(proc: Path) -> frozenset[int]:
    found: set[int] = set()
    pid = os.getpid()
    while pid > 0 and pid not in found:
        found.add(pid)
        try:
            stat = (proc / str(pid) / "stat").read_bytes()
        except OSError:
            break
        pid = int(stat.rpartition(b")")[2].split()[1])
    return frozenset(found)
