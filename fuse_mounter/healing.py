# SPDX-License-Identifier: Apache-2.0
"""Puts the healthy mount over the dead one that a container still sees, from outside.

The copy is a slave before anything else happens to it: an unmount in the container must not travel
to the node. It is attached together with a copy of the anchor that the node's mount lies on, so
that later recoveries reach it; where the container had it read-only, alone, for what is put on an
anchor later is writable. In doubt nothing is done. Blocking; for a worker thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from agents import inhabitants, mountinfo, processes
from agents.errors import AgentError, Unavailable
from agents.hostfs import HostFs
from agents.mountinfo import MountEntry
from agents.mounts import MountAttribute, Mounts, Propagation
from agents.namespaces import Below, Namespaces
from fuse_mounter.attached import Attached
from fuse_mounter.bindings import Exposed, View

#: So many mounts on each other, and a container is not healed again.
_MOST_LAYERS = 8
_ATTRIBUTES = {
    "ro": MountAttribute.RDONLY,
    "nosuid": MountAttribute.NOSUID,
    "nodev": MountAttribute.NODEV,
    "noexec": MountAttribute.NOEXEC,
}


class Healer:
    """`root`: where the node's mounts are."""

    def __init__(self, root: Path, host: HostFs, mounts: Mounts, namespaces: Namespaces) -> None:
        self._root, self._host = root, host
        self._mounts, self._namespaces = mounts, namespaces

    def heal(self, attached: Attached, view: View, copy: int) -> None:
        """Attach `copy`, which is of what the node shows, where this container sees a dead mount.

        Raises ProcessLookupError when it is gone, Unavailable when it must be left alone, OSError.
        """
        assert view.top is not None
        attributes = MountAttribute.NONE
        for option in view.top.options & _ATTRIBUTES.keys():
            attributes |= _ATTRIBUTES[option]
        self._mounts.set_attributes(copy, attributes, propagation=Propagation.SLAVE)
        host = mountinfo.read(self._host.proc)
        with processes.pinned(self._host.proc, attached.process) as pidfd:
            if pidfd is None:
                raise ProcessLookupError
            self._refuse(attached, view, host)
            self._namespaces.cover(
                pidfd, copy, Path(view.place), view.top.mount_id, self._below(view, host)
            )

    def _refuse(self, attached: Attached, view: View, host: Iterable[MountEntry]) -> None:
        """The process is pinned: what is read of it now is its own."""
        assert view.top is not None
        namespace = inhabitants.namespace(self._host, str(attached.process.pid))
        own = (inhabitants.namespace(self._host, pid) for pid in ("1", "self"))
        if namespace != attached.namespace or namespace in own:
            raise Unavailable("it has moved to another mount namespace")
        stack = mountinfo.at(mountinfo.read(self._host.proc, attached.process.pid), view.place)
        top = stack[-1] if stack else None
        if top is None or (top.mount_id, top.device) != (view.top.mount_id, view.top.device):
            raise Unavailable("something else is mounted there by now")
        if top.shared is not None and top.shared in {entry.shared for entry in host}:
            raise Unavailable("what it sees there is shared with the node (Bidirectional)")
        shown = view.exposed.top
        if shown is not None and shown.read_only and not top.read_only:
            raise Unavailable("it was bound writable, and is published read-only by now")
        if "idmapped" in top.options:
            raise Unavailable("its volume has ids of its own (an id-mapped mount)")
        if len(stack) > _MOST_LAYERS:
            raise Unavailable("it was healed too often already; start it again")

    def _below(self, view: View, host: Iterable[MountEntry]) -> Below | None:
        """The anchor to take along; None: the mount goes alone."""
        exposed = view.exposed
        if view.folder or exposed.anchor is None or _narrower(view, exposed):
            return None
        path = self._root / exposed.path
        depth = len(mountinfo.at(host, path)) - 1
        return Below(str(path), depth, exposed.anchor.device)


def _narrower(view: View, exposed: Exposed) -> bool:
    """Whether the container may write less than the node lets it."""
    if view.top is None or exposed.top is None:
        raise AgentError("nothing is mounted there")
    return view.top.read_only and not exposed.top.read_only
