# SPDX-License-Identifier: Apache-2.0
"""Take away allocation directories that nobody holds any more, and mend those that are held. In
doubt, keep them.

A directory is held while a process carries its mount, or while podresources lists a container with
exactly its units. It goes after it was seen unheld for a whole grace period without a break: an
answer to Allocate is mounted a little later, and a crashed container comes back to the same
directory minutes later.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from pathlib import Path

from agents.logs import get_logger
from gpu_plugin import carriers
from gpu_plugin.carriers import Home, home_of
from gpu_plugin.identity import Allocation, Allocations
from gpu_plugin.mismatch import Held, Mismatch, digests, mismatches

#: Allocations of one pod (its init and main containers) come within this time.
_ONE_ADMISSION_NS = 60 * 1_000_000_000


def held_by_pods(allocations: Iterable[Allocation], held: Held) -> set[str]:
    """Names whose exact units a container holds. Of several with the same units, only the newest
    and those of the same admission: the others belonged to former pods.
    """
    groups: dict[tuple[str, frozenset[str]], list[Allocation]] = {}
    for allocation in allocations:
        groups.setdefault((allocation.resource, allocation.ids), []).append(allocation)
    sets = {resource: set(ids) for resource, ids in held.items()}
    names: set[str] = set()
    for (resource, ids), group in groups.items():
        if ids in sets.get(resource, ()):
            newest = max(allocation.made_at_ns for allocation in group)
            names |= {a.name for a in group if a.made_at_ns >= newest - _ONE_ADMISSION_NS}
    return names


def mounted_names(proc: Path, home: Home, names: Set[str]) -> set[str] | None:
    """Those of `names` that any process has mounted, of the directories of `home`. None when a
    process that may belong to a pod could not be looked at.
    """
    found: set[str] = set()
    for pid, carried in carriers.sweep(proc, home, names):
        if carried is not None:
            found |= carried
        elif _may_be_in_a_pod(proc, str(pid)):
            return None
        # Else: init of some machines lets nobody look, root included.
    return found


def _may_be_in_a_pod(proc: Path, pid: str) -> bool:
    """Every cgroup that the kubelet makes for a pod has `pod` in its path, whatever the driver."""
    try:
        return "pod" in (proc / pid / "cgroup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        return True


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one look did: names that were removed and mended. `mismatches` are those that the look
    before found too (None: this time it could not be told).
    """

    removed: tuple[str, ...] = ()
    mended: tuple[str, ...] = ()
    mismatches: frozenset[Mismatch] | None = None


class Cleaner:
    """Remembers since when each directory is unheld. Blocking; call it from a worker thread."""

    def __init__(self, allocations: Allocations, proc: Path, *, grace_s: float) -> None:
        self._allocations, self._proc, self._grace_s = allocations, proc, grace_s
        self._unheld_since: dict[str, float] = {}
        self._doubts: frozenset[Mismatch] = frozenset()

    def sweep(self, held: Held, now: float) -> Sweep:
        """One look at `now` (monotonic seconds). `held` is what podresources says now: without its
        answer there must be no sweep.
        """
        names = self._allocations.names()
        mounted = mounted_names(self._proc, home_of(self._allocations.containers), names)
        if mounted is None:
            self._unheld_since.clear()
            return Sweep()
        recorded = self._allocations.recorded()
        lost = names - {allocation.name for allocation in recorded}
        if restored := self._restore(lost, held):
            recorded = self._allocations.recorded()
        kept = mounted | held_by_pods(recorded, held)
        mended = [a.name for a in recorded if a.name in kept and self._mend(a)]
        self._unheld_since = {name: self._unheld_since.get(name, now) for name in names - kept}
        due = [name for name, since in self._unheld_since.items() if now - since >= self._grace_s]
        doubts, before = mismatches(recorded, mounted, held), self._doubts
        self._doubts = doubts
        return Sweep(
            removed=tuple(name for name in sorted(due) if self._remove(name)),
            mended=(*restored, *mended),
            mismatches=doubts & before,
        )

    def _restore(self, lost: Iterable[str], held: Held) -> list[str]:
        """Directories whose record a crash took, of units that a container holds."""
        listed = digests(held)
        restored = []
        for name in sorted(lost):
            found = listed.get(name.partition(".")[0])
            if found is None:
                continue
            try:
                self._allocations.restore(name, *found)
            except FileNotFoundError:
                continue  # a record that cannot be read, and no directory
            except (OSError, ValueError) as error:
                self._say_kept(name, error)
                continue
            restored.append(name)
        return restored

    def _mend(self, allocation: Allocation) -> bool:
        try:
            return self._allocations.mend(allocation)
        except OSError as error:
            self._say_kept(allocation.name, error)
            return False

    def _remove(self, name: str) -> bool:
        try:
            self._allocations.remove(name)
        except OSError as error:
            self._say_kept(name, error)
            return False
        self._unheld_since.pop(name, None)
        return True

    def _say_kept(self, name: str, error: Exception) -> None:
        path = self._allocations.containers / name
        get_logger().warning("allocation left as it is", path=str(path), error=str(error))
