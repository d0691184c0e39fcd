# SPDX-License-Identifier: Apache-2.0
"""One container that is shown views: its cgroup, its files, and how its targets stand.

Knows no other container; attaches nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from agents.cgroups import Cgroup
from lxcfs_helper import reading
from lxcfs_helper.config import ViewName
from lxcfs_helper.facts import ContainerFacts, CpuAccount, HostFacts
from lxcfs_helper.files import ViewFiles
from lxcfs_helper.inject import Outcome, Result, Wish
from lxcfs_helper.selection import Located
from lxcfs_helper.views import VIEWS, stat


class Covered:
    """Mutable; for the one thread that sweeps."""

    def __init__(self, located: Located, cgroup: Cgroup, files: ViewFiles) -> None:
        self.located = located
        #: What is shown, by configuration; empty: everything of ours is to be taken away.
        self.selected: tuple[ViewName, ...] = ()
        #: Whether something is known to have changed, so that the targets have to be looked at.
        self.pending = True
        #: When the files were last brought up to date, in seconds since boot; 0: never.
        self.rendered_at = 0.0
        self.facts: ContainerFacts | None = None
        self.reason = ""
        self._cgroup = cgroup
        self._memory_activity = cgroup.memory.activity
        self._cpu_activity = cgroup.cpu.activity
        self._files = files
        self._shown: frozenset[ViewName] = frozenset()
        self._activity: object = None
        self._account: CpuAccount | None = None
        self._static_for: object = None
        self._results: dict[Path, Result] = {}

    @property
    def id(self) -> str:
        return self.located.container.id

    @property
    def finished(self) -> bool:
        """Whether nothing is to be shown, and nothing is shown any more."""
        gone = (Outcome.ABSENT, Outcome.FOREIGN, Outcome.GONE)
        standing = self._results.values()
        return (
            not self.selected
            and bool(standing)
            and all(result.outcome in gone for result in standing)
        )

    def select(self, names: Sequence[ViewName]) -> None:
        """Show these views, as far as they apply."""
        if tuple(names) != self.selected:
            self.selected = tuple(names)
            self._results.clear()
            self.start_over()

    def start_over(self) -> None:
        """Render and check everything, whatever seems to be there."""
        self._activity = self._static_for = None
        self.pending = True

    def moved(self, now: float, patience_s: float) -> bool:
        """Whether the files have to be rendered: something was used, or they are old."""
        if not self.selected:
            return False
        activity = self._memory_activity(), self._cpu_activity()
        if activity == self._activity and now - self.rendered_at < patience_s:
            return False
        self._activity = activity
        return True

    def render(self, host: HostFacts, now: float) -> None:
        """Read the cgroup and bring the files up to date. Raises OSError, ValueError."""
        facts = self._read(host, now)
        if facts is None:
            self.reason = "its cgroup is gone, or counts neither memory nor CPU time"
            return
        limits = facts.limits
        static_for = limits.cpus(host.cpus), limits.cpu_count(host.cpus), host.cpuinfo
        shown = frozenset(name for name in self.selected if VIEWS[name].applies(limits, host))
        for name in shown:
            view = VIEWS[name]
            fresh = not view.dynamic and name in self._shown and static_for == self._static_for
            if not fresh and self._files.write(self.id, view.file, view.render(host, facts)):
                self.pending = True
        if shown != self._shown:
            self.pending = True
        self.facts, self._shown, self._static_for = facts, shown, static_for
        self.rendered_at, self.reason = now, ""

    def failed(self, reason: str) -> None:
        """The files could not be brought up to date; they keep what they say."""
        self.reason = reason
        self._activity = None

    def wishes(self) -> tuple[Wish, ...]:
        """Every target of every view, with the file that belongs there or none."""
        assert self._files.device is not None
        return tuple(
            Wish(
                target,
                self._files.path(self.id, view.file) if name in self._shown_now else None,
                self._files.source,
                self._files.device,
                self._files.root(self.id, view.file),
            )
            for name, view in VIEWS.items()
            for target in view.targets
        )

    def settle(self, results: Mapping[Path, Result]) -> None:
        """Take note of how the targets stand."""
        self._results = dict(results)

    def views(self) -> dict[str, str]:
        """How each view stands, in words, for people and metrics."""
        return {name.value: self._view_state(name) for name in VIEWS}

    def close(self) -> None:
        self._cgroup.close()

    @property
    def _shown_now(self) -> frozenset[ViewName]:
        return self._shown if self.selected else frozenset()

    def _read(self, host: HostFacts, now: float) -> ContainerFacts | None:
        """None: the cgroup is gone, and the container with it."""
        limits = reading.read_limits(self._cgroup)
        memory = reading.read_memory(self._cgroup, host)
        started = self.located.process.start_ticks / host.ticks_per_second
        account = reading.read_account(
            self._cgroup, self._account, limits=limits, host=host, started=started, now=now
        )
        if memory is None or account is None:
            return None
        if self._account is None:
            account = self._resumed(account, host)
        self._account = account
        return ContainerFacts(limits, memory, account)

    def _resumed(self, account: CpuAccount, host: HostFacts) -> CpuAccount:
        shown = self._files.read(self.id, VIEWS[ViewName.STAT].file)
        return account if shown is None else stat.resume(account, shown, host.ticks_per_second)

    def _view_state(self, name: ViewName) -> str:
        if name not in self.selected:
            return "off"
        if self.reason:
            return f"failed: {self.reason}"
        results = [self._results[t] for t in VIEWS[name].targets if t in self._results]
        bad = [result for result in results if result.outcome is Outcome.FAILED]
        if bad:
            return f"failed: {bad[0].reason}"
        if name not in self._shown:
            return "host"  # no limit makes it differ
        return _WORDS[results[0].outcome] if results else "missing"


_WORDS = {
    Outcome.SHOWN: "attached",
    Outcome.ABSENT: "missing",
    Outcome.FOREIGN: "covered by another mount",
    Outcome.GONE: "missing",
    Outcome.FAILED: "failed",
}
