# SPDX-License-Identifier: Apache-2.0
"""Volumes of a pod that would not survive, or not be what they seem, below mounts that come and go.
Pure; knows no hub.

The rules are the kernel's and the kubelet's, and they are on the page of the mount manager: a mount
that is replaced on the node reaches a pod only through a volume with HostToContainer, bound at the
shared root or at a directory in it; what arrives that way is writable whatever the volume says.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

#: What a hostPath says that is bound as a single file.
_FILES = ("File", "FileOrCreate", "Socket", "CharDevice", "BlockDevice")
_READ_ONLY = (
    "is read-only, which does not hold for mounts that arrive in a pod that runs: publish a "
    "read_only name on the node, and mount that without readOnly"
)


def problems(
    volumes: Iterable[Mapping[str, Any]],
    volume_mounts: Iterable[Mapping[str, Any]],
    *,
    root: str,
    tokens: str | None,
) -> list[str]:
    """One sentence for each that has to be changed. `root`: where the node has its mounts;
    `tokens`: where the directories of users' tokens are, None: there are none.
    """
    paths = {
        str(one.get("name")): (posixpath.normpath(str(host["path"])), str(host.get("type") or ""))
        for one in volumes
        if isinstance(host := one.get("hostPath"), Mapping) and host.get("path")
    }
    found: list[str] = []
    for mount in volume_mounts:
        path, kind = paths.get(str(mount.get("name")), ("", ""))
        where = f"volume {mount.get('name')!r} ({path} at {mount.get('mountPath')})"
        if path and _related(path, root):
            found += [f"{where} {why}" for why in _of_mounts(mount, kind)]
        if path and tokens:
            found += [f"{where} {why}" for why in _of_tokens(path, tokens, mount, kind)]
    return found


def _of_mounts(mount: Mapping[str, Any], kind: str) -> Iterator[str]:
    propagation = mount.get("mountPropagation")
    if kind in _FILES:
        yield "is a single file, which keeps what it was bound to: mount its directory"
    if mount.get("subPath") or mount.get("subPathExpr"):
        yield (
            "has a subPath, which is bound to the mount of this moment and is dead after its first "
            "recovery: make the directory the hostPath, or publish a folder under a name of its own"
        )
    if mount.get("readOnly") or mount.get("recursiveReadOnly"):
        yield _READ_ONLY
    if propagation != "HostToContainer":
        yield (
            f"has mountPropagation {propagation or 'None'}: write HostToContainer, or the pod "
            "keeps the mounts of its start, dead or alive"
        )


def _of_tokens(path: str, tokens: str, mount: Mapping[str, Any], kind: str) -> Iterator[str]:
    """What is right is one user's directory, `<tokens>/<uid>`."""
    part = str(mount.get("subPath") or mount.get("subPathExpr") or "")
    bound = posixpath.normpath(posixpath.join(path, part))
    if below(tokens, bound):
        yield (
            "shows the tokens of all users to whoever is root in the pod: mount one user's "
            "directory"
        )
    elif below(bound, tokens) and (kind in _FILES or "/" in posixpath.relpath(bound, tokens)):
        yield (
            "is a single file: a new token is a new file of the same name, which the pod would "
            "never see. Mount the user's directory"
        )


def below(path: str, above: str) -> bool:
    """Whether it is that directory, or in it; both without `..`."""
    return path == above or path.startswith(above.rstrip("/") + "/")


def _related(path: str, root: str) -> bool:
    """At, below or above it."""
    return below(path, root) or below(root, path)
