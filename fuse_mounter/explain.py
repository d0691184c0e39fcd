# SPDX-License-Identifier: Apache-2.0
"""What a configuration would do on this node: for each mount what is started, what is written for
it, what is missing, where pods see it; and how pods bind it. Starts nothing, and looks at nothing
that is mounted.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents import mountinfo
from agents.config import NodeConfig
from agents.hostfs import HostFs
from agents.mountinfo import MountEntry
from agents.mounts import LinuxMounts
from agents.report import Report
from fuse_mounter import request_timeout
from fuse_mounter.config import MounterConfig
from fuse_mounter.drivers import autofs, nfs
from fuse_mounter.drivers.base import Launch, MountBase, SourceMount
from fuse_mounter.drivers.credentials import digest_now
from fuse_mounter.drivers.nfs import NfsMount
from fuse_mounter.drivers.registry import driver_of
from fuse_mounter.places import Places, StagingName
from fuse_mounter.request_timeout import RequestTimeout

_SNIPPET = """\
volumes:
  - name: nodeshare
    hostPath: {{path: {root}, type: Directory}}
containers:
  - volumeMounts:
      - {{name: nodeshare, mountPath: /nodeshare, mountPropagation: HostToContainer}}"""
_RULE = (
    "Bind the root, or a folder above the mounts: whoever binds a mount itself (as subPath does) "
    "loses it at its next recovery. A pod's readOnly does not hold: use read_only of the mount."
)


@dataclass(frozen=True, slots=True)
class Node:
    """What this node is like. `beneath`: its kernel can replace a mount without a gap; None: only
    root could find out.
    """

    places: Places
    host: HostFs
    table: Sequence[MountEntry]
    beneath: bool | None
    request_timeout: RequestTimeout


def look(section: MounterConfig, node: NodeConfig) -> Node:
    """At the kernel alone."""
    host = node.host.host_fs()
    return Node(
        places=Places.of(section.root, node.run_dir),
        host=host,
        table=mountinfo.read(host.proc),
        beneath=None if os.geteuid() else LinuxMounts().features().beneath,
        request_timeout=request_timeout.apply(host, None, RequestTimeout()),
    )


def explain(section: MounterConfig, node: Node) -> Report:
    """All mounts, in the order of the configuration."""
    described = [_describe(mount, node) for mount in section.mounts]
    beneath, limit = _beneath(node), _limit(section, node)
    text = [f"replacing a mount: {beneath}", f"limit for FUSE requests: {limit}", ""]
    for one in described:
        text += [f"Mount {one['name']}", *_lines(one), ""]
    snippet = _SNIPPET.format(root=section.root)
    if described:
        text += ["In a pod", *(f"  {line}" for line in snippet.splitlines()), "", _RULE]
    document = {
        "root": str(section.root),
        "replacing": beneath,
        "request_timeout": limit,
        "mounts": described,
        "pod": snippet,
        "rule": _RULE,
    }
    return Report(text if described else ["no mount is configured"], document)


def _describe(mount: MountBase, node: Node) -> dict[str, Any]:
    """What there is to say of one mount; the keys are what people read in front of it."""
    driver = driver_of(mount)
    staging = node.places.staging / str(StagingName(mount.name, digest_now(mount), 1))
    launch = _launch(mount, staging, node.host)
    problem = driver.preflight(mount, node.host)
    return {
        "name": mount.name,
        "driver": mount.driver,
        "source": str(getattr(mount, "source", "")) or None,
        "server": driver.server(mount),
        "pods_see_it_at": list(_seen_at(mount, node.places.root)),
        "read_only": mount.read_only,
        "runs": shlex.join(launch.argv) if launch else "nothing: the kernel mounts it",
        "with": dict(launch.environment) if launch else {},
        "writes": [str(path) for path in launch.files] if launch else [],
        "problem": str(problem) if problem else None,
        "notes": list(_notes(mount, node)),
    }


def _seen_at(mount: MountBase, root: Path) -> Iterator[str]:
    yield str(root / mount.path)
    for shared in mount.publish:
        what = f"the folder {shared.folder!r}" if shared.folder else ""
        said = ", ".join(word for word in (what, "read-only" if shared.read_only else "") if word)
        yield f"{root / shared.path}{said and f' ({said})'}"


def _launch(mount: MountBase, staging: Path, host: HostFs) -> Launch | None:
    """None: nothing is run."""
    if isinstance(mount, NfsMount):
        return Launch(nfs.helper(mount, staging, nfs.all_options(mount)))
    driver = driver_of(mount)
    return driver.launch(mount, staging, host) if driver.has_client else None


def _notes(mount: MountBase, node: Node) -> Iterator[str]:
    if isinstance(mount, SourceMount):
        found = autofs.waits_for(node.table, mount.source)
        if found is not None:
            yield (
                f"its source is below {found.mount_point!r}, where an automounter mounts what is "
                "asked for: while its daemon is away, so is this mount"
            )
    if autofs.waits_for(node.table, node.places.root / mount.path) is not None:
        yield "an automounter lies where pods would see it: use another root or path"


def _lines(one: Mapping[str, Any]) -> Iterator[str]:
    for word, value in one.items():
        said = "none found" if word == "problem" and value is None else value
        for line in _words(said) if word != "name" else ():
            yield f"  {word.replace('_', ' '):<15} {line}"


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from (f"{name}={shlex.quote(text)}" for name, text in value.items())
    elif isinstance(value, list):
        yield from value
    elif value is None or value is False:
        return
    else:
        yield "yes" if value is True else value


def _beneath(node: Node) -> str:
    if node.beneath is None:
        return "only root can tell how"
    if node.beneath:
        return "the new one is slipped beneath the old one: no gap"
    return "this kernel covers the old one (Linux 6.5 slips it beneath, without a gap)"


def _limit(section: MounterConfig, node: Node) -> str:
    wanted, now = section.health.request_timeout, node.request_timeout.seconds
    if now is None:
        ignored = "" if wanted is None else f"; {wanted:g} s are asked for in vain"
        return f"this kernel has none (Linux 6.15 has){ignored}"
    if wanted is not None:
        return f"{wanted:g} s, for the whole node (now {now or 'none'})"
    return f"{now} s" if now else "none; health.request_timeout sets one for the whole node"
