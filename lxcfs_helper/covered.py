# SPDX-License-Identifier: Apache-2.0
"""One container that is shown views: its cgroup, its files, and how its targets stand.

Knows no other container; attaches nothing itself.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from pathlib import Path

from agents.cgroups import Cgroup
from lxcfs_helper.activity import Activity
from lxcfs_helper.config import ViewName
from lxcfs_helper.facts import ContainerFacts, HostFacts, NativeFile
from lxcfs_helper.files import ViewFiles
from lxcfs_helper.inject import Outcome, Result, Wish
from lxcfs_helper.reading import ContainerReader
from lxcfs_helper.rhythm import Rhythm
from lxcfs_helper.selection import Located
from lxcfs_helper.sources import EVERYTHING, Source
from lxcfs_helper.views import VIEWS, FileView, TreeView, View

#: Between looks that are this near to each other, only what moved is read.
_OFTEN_S = 2.0

_GONE = "its cgroup is gone, or counts neither memory nor CPU time"

# Plain numbers: combining enumeration members costs more than reading a cgroup file.
_EVERYTHING, _LIMITS, _TIME = int(EVERYTHING), int(Source.LIMITS), int(Source.TIME)
_MEMORY, _HOST = int(Source.MEMORY), int(Source.HOST)
_IO, _LOAD = int(Source.IO), int(Source.LOAD)


class Failure(enum.Enum):
    """What could not be done for a container; the values are those of a metric."""

    LOCATE = "locate"
    READ = "read"
    WRITE = "write"
    ATTACH = "attach"


class Covered:
    """Mutable; for the one thread that sweeps."""

    def __init__(
        self, located: Located, cgroup: Cgroup, reader: ContainerReader, files: ViewFiles
    ) -> None:
        self.located = located
        #: What is shown, by configuration; empty: everything of ours is to be taken away.
        self.selected: tuple[ViewName, ...] = ()
        #: Whether something is known to have changed, so that the targets have to be looked at.
        self.pending = True
        #: When the files were last brought up to date, in seconds since boot; 0: never.
        self.rendered_at = 0.0
        self.rhythm = Rhythm()
        self.directory = files.directory_of(located.container.id)
        self.facts: ContainerFacts | None = None
        #: Why the files are not up to date; empty: they are.
        self.reason = ""
        self.failure: Failure | None = None
        #: What this kernel does not tell, by view.
        self.unknown: dict[ViewName, tuple[str, ...]] = {}
        self._reader = reader
        self._activity = Activity(cgroup)
        self._files = files
        self._seen_limits: object = None
        self._flagged = _EVERYTHING
        self._needed, self._passing = _EVERYTHING, 0
        self._shown: frozenset[ViewName] = frozenset()
        #: Of all targets those that this kernel has.
        self._offered: frozenset[Path] = frozenset()
        self._plans: dict[int, tuple[View, ...]] = {}
        self._static_for: object = None
        self._seen_of_host: object = None
        self._results: dict[Path, Result] = {}
        self._wishes: tuple[Wish, ...] | None = None
        self._wishes_for: tuple[int, int] | None = None

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
        self._static_for = None
        self.pending = True
        self.look_at(_EVERYTHING)

    def look_at(self, sources: int) -> None:
        """Take these as moved, at once."""
        self._flagged |= sources
        self.rhythm.at_once()

    def check_limits(self) -> None:
        """Look whether a limit is set anew, where nobody tells."""
        limits = self._activity.limits()
        if limits != self._seen_limits:
            self._seen_limits = limits
            self.look_at(_LIMITS)

    def look(self, now: float, heartbeat_s: float) -> int:
        """The sources that have to be read, as a number; 0: the files say how things are.

        Where nobody reads, looks are few, and each is at what others changed as well.
        """
        if not self.selected:
            self.rhythm.never()
            return 0
        often = now - self.rhythm.looked_at < _OFTEN_S
        self.rhythm.looked(now, heartbeat_s)
        moved = self._activity.moved() if often else self._activity.moved_by_anybody()
        if moved or not often:
            moved |= _HOST
        return (moved | self._passing) & self._needed | self._flagged

    def render(self, sources: int, host: HostFacts, now: float) -> int:
        """Read these and bring the files up to date; how many views were rendered. Raises OSError,
        ValueError."""
        facts = self._reader.read(sources, host, now)
        if facts is None:
            self.failed(_GONE, Failure.READ)
            return 0
        if self.facts is None:
            self._reader.resume(self._shown_earlier, host.ticks_per_second)
            facts = self._reader.facts or facts
        static_for = facts.limits, host.static
        if static_for != self._static_for:
            sources = _EVERYTHING
            self._choose(facts, host)
        else:
            sources &= ~(_LIMITS | self._unmoved(facts, host))
        if sources & (_MEMORY | _HOST):
            self._seen_of_host = host.memory_for(facts.limits)
        views = self._plan(sources)
        for view in views:
            self._write(view, host, facts)
        self.facts, self._static_for, self._flagged = facts, static_for, 0
        self.rendered_at, self.reason, self.failure = now, "", None
        return len(views)

    def _unmoved(self, facts: ContainerFacts, host: HostFacts) -> int:
        """Sources that were read, and are as they were."""
        known, found = self.facts, 0
        if host.memory_for(facts.limits) == self._seen_of_host:
            found |= _HOST
        if known is not None and facts.io is known.io:
            found |= _IO
        if known is not None and facts.load is known.load:
            found |= _LOAD
        return found

    def failed(self, reason: str, failure: Failure) -> None:
        """The files could not be brought up to date; they keep what they say."""
        self.reason, self.failure = reason, failure
        self._static_for = None
        self._flagged = _EVERYTHING

    def wishes(self) -> tuple[Wish, ...]:
        """Every target of every view, with the file that belongs there or none."""
        if self._wishes is None or self.pending or self._wishes_for != self._files.device:
            shown = self._shown_now
            self._wishes = tuple(
                self._wish(file, shown=name in shown and file.target in self._offered)
                for name, view in VIEWS.items()
                for file in view.files
            )
            self._wishes_for = self._files.device
        return self._wishes

    def settle(self, results: Mapping[Path, Result]) -> None:
        """Take note of how the targets stand."""
        self._results = dict(results)

    @property
    def not_attached(self) -> bool:
        """Whether something could not be attached or detached."""
        return any(result.outcome is Outcome.FAILED for result in self._results.values())

    def views(self) -> dict[str, str]:
        """How each view stands, in words, for people and metrics."""
        return {name.value: self._view_state(name) for name in VIEWS}

    def close(self) -> None:
        self._reader.close()

    @property
    def _shown_now(self) -> frozenset[ViewName]:
        return self._shown if self.selected else frozenset()

    def _write(self, view: View, host: HostFacts, facts: ContainerFacts) -> None:
        for file in view.files:
            if file.target not in self._offered or _native(file, facts) is not None:
                continue
            if isinstance(file, TreeView):
                new = self._files.write_tree(self.id, file.name, file.render(host, facts))
            else:
                new = self._files.write(self.id, file.name, file.render(host, facts))
            self.pending |= new

    def _wish(self, file: FileView | TreeView, *, shown: bool) -> Wish:
        """The kernel's own file of this cgroup, our rendered one, or none of ours."""
        assert self._files.device is not None
        own = _native(file, self.facts) if shown else None
        if own is not None:
            return Wish(
                file.target, own.path, self._files.source, own.device, own.root, writable=True
            )
        if isinstance(file, TreeView):
            path, root = self._files.tree(self.id, file.name)
        else:
            path = self._files.path(self.id, file.name)
            root = self._files.root(self.id, file.name)
        return Wish(
            file.target, path if shown else None, self._files.source, self._files.device, root
        )

    def _choose(self, facts: ContainerFacts, host: HostFacts) -> None:
        """Which of the selected views make a difference, now that limits are these."""
        names = [name for name in self.selected if VIEWS[name].applies(facts.limits, host)]
        self.unknown = {name: VIEWS[name].unknown(host, facts) for name in names}
        shown = frozenset(names)
        self._offered = host.offers
        if shown != self._shown:
            self.pending = True
        self._shown = shown
        self._plans.clear()
        sources = [int(VIEWS[name].sources) for name in shown]
        self._needed = reduce(or_, sources, _LIMITS)
        # What is different a second later although nothing happened.
        self._passing = reduce(or_, (one for one in sources if one & (_TIME | _LOAD)), 0) & ~_LIMITS

    def _plan(self, sources: int) -> tuple[View, ...]:
        """The views to render when these moved."""
        found = self._plans.get(sources)
        if found is None:
            views = (VIEWS[name] for name in self.selected if name in self._shown)
            found = tuple(view for view in views if int(view.sources) & sources)
            self._plans[sources] = found
        return found

    def _shown_earlier(self, name: str) -> bytes | None:
        """What a file of an earlier agent says; None: there is none."""
        return self._files.read(self.id, name)

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


def _native(file: FileView | TreeView, facts: ContainerFacts | None) -> NativeFile | None:
    if facts is None or isinstance(file, TreeView) or file.native is None:
        return None
    return file.native(facts)
