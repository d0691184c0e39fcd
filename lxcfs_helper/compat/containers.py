# SPDX-License-Identifier: Apache-2.0
"""What a container's files say now: its cgroup stays open, and a file is rendered when it is read.
Knows no file system and no caller: a `Home`, and a path such as `proc/meminfo`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from agents import processes
from agents.cgroups import Cgroup, Cgroups
from agents.errors import Unavailable
from agents.hostfs import HostFs
from lxcfs_helper.compat.callers import Home
from lxcfs_helper.facts import ContainerFacts, HostFacts
from lxcfs_helper.host_reading import HostReader
from lxcfs_helper.reading import ContainerReader, read_memory_limits
from lxcfs_helper.sources import Source
from lxcfs_helper.views import VIEWS, FileView, Tree, TreeView, View

#: What is the same for all containers, and moves slowly, is read this often at most.
_HOST_AGE_S = 0.1
#: A dozen files of each stay open.
_MOST_OPEN = 1024

_LIMITS, _HOST = int(Source.LIMITS), int(Source.HOST)
_OF_MEMORY = int(Source.LIMITS | Source.MEMORY | Source.HOST)


class Gone(LookupError):
    """The container's cgroup was removed, or counts nothing: nobody can tell its values."""


class _Open:
    """One container whose cgroup is open."""

    def __init__(self, cgroup: Cgroup, reader: ContainerReader) -> None:
        self.cgroup = cgroup
        self.alive = cgroup.memory.activity
        self.reader = reader
        #: The last text of each file: the same again is the same object, however many hold it.
        self.texts: dict[str, bytes] = {}
        self.trees: dict[str, tuple[object, Tree]] = {}


class Containers:
    """Not thread-safe. The facts of the host are read when they are needed."""

    def __init__(self, host: HostFs, cgroups: Cgroups) -> None:
        self._host, self._cgroups = host, cgroups
        self._reader = HostReader(host)
        self._host_facts: HostFacts | None = None
        self._host_read_at = 0.0
        self._open: OrderedDict[Home, _Open] = OrderedDict()
        self._files: dict[str, tuple[View, FileView]] = {}
        self._trees: dict[str, tuple[View, TreeView]] = {}
        for view in VIEWS.values():
            for file in view.files:
                path = str(file.target).lstrip("/")
                if isinstance(file, TreeView):
                    self._trees[path] = view, file
                else:
                    self._files[path] = view, file

    def text(self, home: Home, path: str) -> bytes | None:
        """The whole file; None: this container is shown the host's. Raises Gone, OSError."""
        found = self._files.get(path)
        if found is None:
            return None
        view, file = found
        one = self._opened(home)
        host = self._host_now()
        facts = self._facts(one, int(view.sources), host)
        if not view.applies(facts.limits, host):
            return None
        own = None if file.native is None else file.native(facts)
        text = _unpadded(file.render(host, facts)) if own is None else own.path.read_bytes()
        if one.texts.get(path) == text:
            return one.texts[path]
        one.texts[path] = text
        return text

    def native(self, home: Home, path: str) -> Path | None:
        """The kernel's own file of this container that is behind a path; None: none is. Raises
        Gone, OSError."""
        found = self._files.get(path)
        if found is None or found[1].native is None:
            return None
        facts = self._facts(self._opened(home), int(found[0].sources), self._host_now())
        own = found[1].native(facts)
        return None if own is None else own.path

    def tree(self, home: Home, path: str) -> Mapping[str, bytes] | None:
        """A whole directory, files by their path below it; None: this container is shown the
        host's. Raises Gone, OSError."""
        found = self._trees.get(path)
        if found is None:
            return None
        view, tree = found
        one = self._opened(home)
        host = self._host_now()
        facts = self._facts(one, int(view.sources), host)
        if not view.applies(facts.limits, host):
            return None
        made_of = facts.limits, host.cpus
        known = one.trees.get(path)
        if known is None or known[0] != made_of:
            known = one.trees[path] = made_of, tree.render(host, facts)
        return known[1]

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].reader.close()

    def _opened(self, home: Home) -> _Open:
        """To be read from, once."""
        self._cgroups.read_anew()
        one = self._open.get(home)
        if one is not None:
            if one.alive() is not None:
                self._open.move_to_end(home)
                return one
            # Removed, and perhaps made again under the same name.
            self._open.pop(home).reader.close()
        self._let_go()
        try:
            cgroup = self._cgroups.open(home.paths)
            one = _Open(cgroup, ContainerReader(cgroup, self._host.proc, self._started_s(home)))
        except Unavailable as error:
            raise Gone(str(error)) from error
        self._open[home] = one
        return one

    def _let_go(self) -> None:
        """Of containers that are gone, and of the one that nobody asked for the longest."""
        for home in [home for home, one in self._open.items() if one.alive() is None]:
            self._open.pop(home).reader.close()
        while len(self._open) >= _MOST_OPEN:
            self._open.popitem(last=False)[1].reader.close()

    def _started_s(self, home: Home) -> float:
        """When its first process was started, in seconds since boot."""
        members = self._cgroups.pids(home.paths) if home.first is None else {home.first}
        keys = [processes.identify(self._host.proc, pid) for pid in members]
        ticks = [key.start_ticks for key in keys if key is not None]
        if not ticks:
            return time.clock_gettime(time.CLOCK_BOOTTIME)
        return min(ticks) / self._host_now().ticks_per_second

    def _facts(self, one: _Open, sources: int, host: HostFacts) -> ContainerFacts:
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        limits = None
        if sources | _HOST == _OF_MEMORY and one.reader.facts is not None:
            # The most read file: leaving the limits of CPUs out makes it a fifth cheaper.
            limits, sources = read_memory_limits(one.cgroup), sources & ~_LIMITS
        facts = one.reader.read(sources, host, now)
        if facts is None:
            raise Gone("its cgroup is gone, or counts neither memory nor CPU time")
        return facts if limits is None else replace(facts, limits=limits)

    def _host_now(self) -> HostFacts:
        now = time.monotonic()
        if self._host_facts is None or now - self._host_read_at > _HOST_AGE_S:
            self._host_facts, self._host_read_at = self._reader.read(), now
        return self._host_facts


def _unpadded(text: bytes) -> bytes:
    """Views keep their length by blanks at the end of lines, which nobody needs here."""
    if b"  \n" not in text:
        return text
    return b"\n".join(line.rstrip(b" ") for line in text.split(b"\n"))
