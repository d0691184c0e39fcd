# SPDX-License-Identifier: Apache-2.0
"""A look at all mount namespaces of the node: who has bound the root or something in it, and how.

New namespaces are read at once; those that are known only when what the node shows has changed, and
once a minute: a container's own mounts hardly ever change. Kernel files alone; blocking, for a
worker thread. Names nobody and heals nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from agents import inhabitants, mountinfo
from agents.hostfs import HostFs
from agents.inhabitants import Inhabitant, Inhabitants
from agents.mountinfo import MountEntry
from fuse_mounter import past_layers
from fuse_mounter.bindings import Binding, Bound, Exposed, NodeSide, Past, Sight, find
from fuse_mounter.drivers.base import MountBase
from fuse_mounter.observe import is_anchor
from fuse_mounter.places import Places

_READ_AGAIN_S = 60.0
#: A container has its namespace before its volumes are in it.
_SETTLED_S = 15.0


@dataclass(frozen=True, slots=True)
class Finding:
    """Somebody who has something of ours."""

    who: Inhabitant
    command: str
    bindings: tuple[Binding, ...]


@dataclass(frozen=True, slots=True)
class _Known:
    """What was found in one namespace. `masters`: its peer groups that are slaves, and of whom.
    `devices`: what it has mounted. `since`: when it was read for the first time.
    """

    finding: Finding
    masters: frozenset[tuple[int, int]]
    devices: frozenset[tuple[int, int]]
    since: float
    at: float


class Survey:
    """Remembers what it read, and whose devices it has seen on the node."""

    def __init__(
        self, places: Places, host: HostFs, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._places, self._host, self._clock = places, host, clock
        self._own = mountinfo.Watched(host.proc)
        self._inhabitants = Inhabitants(host)
        self._looked_at: tuple[Sequence[MountEntry], Sequence[MountBase]] = ((), ())
        self._now: NodeSide | None = None
        self._shown: dict[tuple[int, int], Past] = {}
        self._node: NodeSide | None = None
        self._roots: set[tuple[tuple[int, int], str] | None] = set()
        self._past = past_layers.read(places.layers)
        self._known: dict[int, _Known] = {}

    def look(self, mounts: Sequence[MountBase]) -> tuple[Finding, ...]:
        """Everybody who has something of these mounts, by namespace. Raises OSError."""
        host = self._own.read()
        node = self._look_here(host, mounts)
        if node is None:
            self._known.clear()
            return ()
        self._roots = self._roots or {_root_of(host), self._root_of_first()}
        before = dict(self._past)
        self._past |= self._shown
        moved, self._node = node != self._node, node
        self._read_all(moved=moved)
        held = {device for known in self._known.values() for device in known.devices}
        held |= {entry.device for entry in host}
        self._past = {device: past for device, past in self._past.items() if device in held}
        if self._past != before:
            past_layers.write(self._places.layers, self._past)
        findings = (known.finding for known in self._known.values())
        return tuple(
            sorted((f for f in findings if f.bindings), key=lambda f: f.who.process.start_ticks)
        )

    def _look_here(
        self, host: Sequence[MountEntry], mounts: Sequence[MountBase]
    ) -> NodeSide | None:
        """What the node shows. None: there is no root, or nothing is configured."""
        if (host, mounts) != self._looked_at:  # the same objects, nearly always
            self._looked_at = host, mounts
            self._now = _node_side(self._places, host, mounts)
            self._shown = past_layers.of(host, self._places.root, mounts)
        return self._now

    def _read_all(self, *, moved: bool) -> None:
        """Those that are new, or may see something else than before."""
        found, now = self._inhabitants.look(), self._clock()
        for namespace in self._known.keys() - found.keys():
            del self._known[namespace]
        masters = self._masters()
        for who in found.values():
            if moved or self._to_read(who, now):
                self._read(who, now)
        if self._masters() != masters:  # a chain of slaves became whole
            for who in found.values():
                self._read(who, now)

    def namespace(self, pid: int | None) -> int | None:
        """The mount namespace of a process; None when it is gone."""
        return None if pid is None else inhabitants.namespace(self._host, str(pid))

    def _is_the_nodes(self, binding: Binding, table: Sequence[MountEntry]) -> bool:
        """A service with a mount namespace of its own (systemd's PrivateMounts) has the whole tree
        of the node, with the root at its place: nobody has bound that. And a staging place is
        nothing to bind, for those who see all of the node.
        """
        if f"{self._places.staging}/" in f"{binding.place}/":
            return True
        at_its_place = not binding.what and binding.place == str(self._places.root)
        return at_its_place and _root_of(table) in self._roots

    def _to_read(self, who: Inhabitant, now: float) -> bool:
        known = self._known.get(who.namespace)
        if known is None or known.finding.who != who or now - known.at >= _READ_AGAIN_S:
            return True
        if known.at - known.since < _SETTLED_S:
            return True
        views = (view for binding in known.finding.bindings for view in binding.views)
        return any(view.sight is Sight.LOST for view in views)  # it may have been healed

    def _root_of_first(self) -> tuple[tuple[int, int], str] | None:
        """Of the node's first process, where we may look at it: we may be in a container."""
        try:
            return _root_of(mountinfo.read(self._host.proc, 1))
        except OSError:
            return None

    def _masters(self) -> dict[int, int]:
        return {group: master for known in self._known.values() for group, master in known.masters}

    def _read(self, who: Inhabitant, now: float) -> None:
        assert self._node is not None
        try:
            table = mountinfo.read(self._host.proc, who.process.pid)
        except OSError:
            self._known.pop(who.namespace, None)  # it has just ended
            return
        slaves = ((e.shared, e.master) for e in table if e.shared is not None)
        masters = frozenset((group, master) for group, master in slaves if master is not None)
        known = self._known.get(who.namespace)
        if known is not None and known.finding.who != who:
            known = None
        node = replace(
            self._node,
            masters={**self._masters(), **dict(masters)},
            past=self._past,
            bound={} if known is None else _bound(known.finding),
        )
        bindings = tuple(one for one in find(node, table) if not self._is_the_nodes(one, table))
        devices = frozenset(entry.device for entry in table if entry.fstype.startswith("fuse"))
        since = now if known is None else known.since
        finding = Finding(who, inhabitants.command(self._host, who.process.pid), bindings)
        self._known[who.namespace] = _Known(finding, masters, devices, since, now)


def _node_side(
    places: Places, host: Sequence[MountEntry], mounts: Sequence[MountBase]
) -> NodeSide | None:
    """None: there is no root, or nothing is configured."""
    table = mountinfo.by_place(host)
    roots = table.get(str(places.root), ())
    if not roots or not mounts:
        return None
    exposed = tuple(one for mount in mounts for one in _exposed(mount, str(places.root), table.get))
    return NodeSide(roots[-1], exposed, {})


def _exposed(
    mount: MountBase, root: str, at: Callable[[str], Sequence[MountEntry] | None]
) -> Iterator[Exposed]:
    parts = [(mount.path, ""), *((shared.path, shared.folder) for shared in mount.publish)]
    for path, folder in parts:
        stack = at(f"{root}/{path}") or ()
        anchor = stack[0] if stack and is_anchor(stack[0]) else None
        top = stack[-1] if stack and stack[-1] is not anchor else None
        yield Exposed(path, mount.name, top.root if top else f"/{folder}", anchor, top)


def _bound(finding: Finding) -> dict[str, str]:
    """Which path was bound at which place, where a mount was bound by itself."""
    return {
        view.place: view.exposed.path
        for binding in finding.bindings
        for view in binding.views
        if view.bound is Bound.MOUNT_POINT
    }


def _root_of(table: Sequence[MountEntry]) -> tuple[tuple[int, int], str] | None:
    entries = mountinfo.at(table, "/")
    return (entries[-1].device, entries[-1].root) if entries else None
