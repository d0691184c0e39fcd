# SPDX-License-Identifier: Apache-2.0
"""How a container bound the root or something in it, what it sees there now, and whether the next
recovery will reach it. Pure: mount tables in, values out.

A recovery puts a layer on the *anchor* of a path and takes the old one away. So it reaches exactly
those whose copy of the anchor is a slave (or a peer) of the node's: who bound the root, or a folder
above the mount, with HostToContainer. Who bound the mount itself has a copy of the layer alone, and
keeps that one for ever.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from agents import mountinfo
from agents.mountinfo import MountEntry

_DELETED = "//deleted"
#: Longer chains of slaves of slaves are not followed.
_CHAIN = 10


class Bound(enum.Enum):
    """What the container bound; the values are those of a metric."""

    PARENT = "parent"  # the root, or a folder above the mount
    MOUNT_POINT = "mount_point"  # the mount itself, or something in it (subPath)


class Link(enum.Enum):
    """mountPropagation, as the kernel shows it; the values are those of a metric."""

    NONE = "none"
    HOST_TO_CONTAINER = "host_to_container"
    BIDIRECTIONAL = "bidirectional"


class Sight(enum.Enum):
    """What a container sees in the place of a mount."""

    CURRENT = "current"
    LOST = "lost"  # a mount of ours that was replaced since
    MISSING = "missing"  # nothing, where there is something on the node
    COVERED = "covered"  # somebody mounted something else there
    EMPTY = "empty"  # nothing, as on the node


@dataclass(frozen=True, slots=True)
class Exposed:
    """One path of the root as the node shows it: the name of the mount that belongs there, the part
    of its file system (`root`), and what lies there now; None: nothing.
    """

    path: str
    mount: str
    root: str
    anchor: MountEntry | None
    top: MountEntry | None

    @property
    def by_client(self) -> bool:
        return self.top is not None and self.top.fstype.startswith("fuse")


@dataclass(frozen=True, slots=True)
class Past:
    """A layer that a client has served: of which mount, and what mount tables said of it."""

    mount: str
    fstype: str
    source: str


@dataclass(frozen=True, slots=True)
class NodeSide:
    """`root`: the shared mount that pods bind. `masters`: by peer group, whose slave it is (in any
    mount namespace that was looked at). `past`: by device, layers that were seen here.
    `bound`: by place in the container, the path that was last known to be bound there.
    """

    root: MountEntry
    exposed: tuple[Exposed, ...]
    masters: Mapping[int, int]
    past: Mapping[tuple[int, int], Past] = field(default_factory=dict)
    bound: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class View:
    """One mount in one container, seen at `place`. `folder`: what of it (empty: all).
    `follows`: the next recovery reaches it. `top`: what lies there; None: nothing.
    """

    exposed: Exposed
    place: str
    folder: str
    sight: Sight
    follows: bool
    bound: Bound
    link: Link
    top: MountEntry | None


@dataclass(frozen=True, slots=True)
class Binding:
    """One volume of a container: `place` in it, `what` of the root it shows (empty: the root)."""

    place: str
    what: str
    bound: Bound
    link: Link
    read_only: bool
    views: tuple[View, ...]


def find(node: NodeSide, table: Sequence[MountEntry]) -> tuple[Binding, ...]:
    """All that a container with this mount table has of ours."""
    by_place = mountinfo.by_place(table)
    parents = [entry for entry in table if _below_root(node, entry) is not None]
    ids = {entry.mount_id for entry in parents}
    found = [_of_parent(node, entry, by_place) for entry in parents if entry.parent_id not in ids]
    inside = _descendants(table, ids)
    for entries in by_place.values():
        if entries and entries[0].mount_id not in inside | ids:
            view = _direct(node, entries)
            if view is not None:
                what = "/".join(filter(None, (view.exposed.path, view.folder)))
                found.append(
                    Binding(view.place, what, view.bound, view.link, entries[0].read_only, (view,))
                )
    return tuple(sorted(found, key=lambda binding: binding.place))


def _below_root(node: NodeSide, entry: MountEntry) -> str | None:
    """The folder of the root that a mount shows (empty: the root itself); None: it is none."""
    top, root = node.root.root.rstrip("/"), entry.root
    if entry.device != node.root.device or entry.fstype != node.root.fstype:
        return None
    if root == (top or "/"):
        return ""
    return root.removeprefix(f"{top}/") if root.startswith(f"{top}/") else None


def _descendants(table: Sequence[MountEntry], ids: Collection[int]) -> set[int]:
    """What is mounted on (what is mounted on …) one of these."""
    children: dict[int, list[int]] = {}
    for entry in table:
        if entry.mount_id != entry.parent_id:
            children.setdefault(entry.parent_id, []).append(entry.mount_id)
    found: set[int] = set()
    todo = list(ids)
    while todo:
        for child in children.get(todo.pop(), ()):
            if child not in found:
                found.add(child)
                todo.append(child)
    return found


def _link(node: NodeSide, entry: MountEntry, group: int | None) -> Link:
    """How a mount hangs on a peer group of the node."""
    if group is None:
        return Link.NONE
    if entry.shared == group:
        return Link.BIDIRECTIONAL
    master = entry.master
    for _ in range(_CHAIN):
        if master is None or master == group:
            break
        master = node.masters.get(master)
    return Link.HOST_TO_CONTAINER if master == group else Link.NONE


def _of_parent(
    node: NodeSide, entry: MountEntry, by_place: Mapping[str, Sequence[MountEntry]]
) -> Binding:
    what = _below_root(node, entry)
    assert what is not None
    link = _link(node, entry, node.root.shared)
    views = []
    for exposed in node.exposed:
        inner = _relative(exposed.path, what)
        if inner is not None:
            place = str(PurePosixPath(entry.mount_point, inner))
            stack = by_place.get(place, ())
            stack = [one for one in stack if one.mount_id != entry.mount_id]
            views.append(_view(node, exposed, place, stack, link))
    return Binding(entry.mount_point, what, Bound.PARENT, link, entry.read_only, tuple(views))


def _relative(path: str, folder: str) -> str | None:
    """A path as seen from a folder; None: it does not lie in it."""
    if not folder or path == folder:
        return path if not folder else "."
    return path.removeprefix(f"{folder}/") if path.startswith(f"{folder}/") else None


def _view(
    node: NodeSide, exposed: Exposed, place: str, stack: Sequence[MountEntry], link: Link
) -> View:
    top = stack[-1] if stack else None
    anchored = [one for one in stack if exposed.anchor and one.device == exposed.anchor.device]
    if exposed.anchor is not None:
        # The one that recoveries arrive on. Without a copy of it none will.
        links = [_link(node, one, exposed.anchor.shared) for one in anchored]
        link = next((one for one in links if one is not Link.NONE), Link.NONE)
    sight = _sight(node, exposed, top)
    return View(exposed, place, "", sight, link is not Link.NONE, Bound.PARENT, link, top)


def _sight(node: NodeSide, exposed: Exposed, top: MountEntry | None) -> Sight:
    anchor = exposed.anchor
    if top is None or (anchor is not None and top.device == anchor.device):
        return Sight.EMPTY if exposed.top is None else Sight.MISSING
    same = exposed.top is not None and top.device == exposed.top.device
    if same and _folder(top.root, exposed.root) is not None:
        return Sight.CURRENT
    return Sight.LOST if _mount_of(node, top) == exposed.mount else Sight.COVERED


def _folder(root: str, whole: str) -> str | None:
    """Which folder of one part of a file system another part is; None: it does not lie in it."""
    top = whole.rstrip("/")
    if root.rstrip("/") == top:
        return ""
    return root.removeprefix(f"{top}/") if root.startswith(f"{top}/") else None


def _mount_of(node: NodeSide, entry: MountEntry) -> str | None:
    """Whose layer an entry was that is not on the node any more; None: not known, or not ours.

    Only what was seen on the node counts: a name in a mount table can be anybody's.
    """
    past = node.past.get(entry.device)
    same = past is not None and (past.fstype, past.source) == (entry.fstype, entry.source)
    return past.mount if past is not None and same else None


def _direct(node: NodeSide, stack: Sequence[MountEntry]) -> View | None:
    """What bound a mount itself, or a place in it; None: it is none of ours."""
    entry, top = stack[0], stack[-1]
    exposed, folder = _bound_to(node, entry)
    if exposed is None:
        return None
    anchor = exposed.anchor
    links = [_link(node, one, anchor.shared) for one in stack if anchor]
    follows = any(link is not Link.NONE for link in links)
    group = exposed.top.shared if exposed.top is not None else None
    link = next((one for one in links if one is not Link.NONE), _link(node, entry, group))
    sight = _sight(node, exposed, top)
    return View(exposed, entry.mount_point, folder, sight, follows, Bound.MOUNT_POINT, link, top)


def _bound_to(node: NodeSide, entry: MountEntry) -> tuple[Exposed | None, str]:
    """Which path of the root a mount is a copy of, and of which folder in it."""

    def far(found: tuple[Exposed, str]) -> tuple[bool, bool, int]:
        """The same folder may be seen by several names: its group tells which one was bound, or
        what is remembered; else the nearest is meant.
        """
        top = found[0].top
        linked = top is not None and _link(node, entry, top.shared) is not Link.NONE
        remembered = node.bound.get(entry.mount_point) == found[0].path
        return not linked, not remembered, len(found[1])

    return min(_candidates(node, entry), key=far, default=(None, ""))


def _candidates(node: NodeSide, entry: MountEntry) -> Iterator[tuple[Exposed, str]]:
    on_node = {one.top.device for one in node.exposed if one.top is not None}
    lost = None if entry.device in on_node else _mount_of(node, entry)
    for exposed in node.exposed:
        if exposed.anchor is not None and entry.device == exposed.anchor.device:
            yield exposed, ""
        folder = _folder(entry.root.removesuffix(_DELETED), exposed.root)
        if folder is not None and (exposed.mount == lost or _copy_of(node, entry, exposed)):
            yield exposed, folder


def _copy_of(node: NodeSide, entry: MountEntry, exposed: Exposed) -> bool:
    """The kernel's own file systems may be mounted by others too; ours is told by its group."""
    top = exposed.top
    if top is None or top.device != entry.device:
        return False
    return exposed.by_client or _link(node, entry, top.shared) is not Link.NONE
