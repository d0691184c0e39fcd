# SPDX-License-Identifier: Apache-2.0
"""What of this agent is on a machine although it does not run: mounts and their clients (which
`nodeshare mounts drain --all` takes away), tokens, and what clients keep.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from agents import hostfs, mountinfo
from agents.config import NodeConfig, Section
from agents.mountinfo import MountEntry
from agents.mounts import LinuxMounts
from agents.remains import Errand, Remains
from fuse_mounter.config import MounterConfig
from fuse_mounter.credentials.token_files import SOURCE, TokenFiles
from fuse_mounter.drivers.base import private_suffix
from fuse_mounter.drivers.registry import DRIVERS
from fuse_mounter.observe import is_anchor
from fuse_mounter.places import Places


def remains(node: NodeConfig, section: Section | None) -> Remains:
    """Without a section: of the places that are used when nothing else is said."""
    config = section if isinstance(section, MounterConfig) else MounterConfig()
    places = Places.of(config.root, node.run_dir)
    tokens = TokenFiles(config.credentials.directory, node.host.proc, LinuxMounts())
    what = f"the tokens of users in {str(tokens.directory)!r}"
    suffix = private_suffix(places.staging)
    caches = [driver.caches for driver in DRIVERS.values() if driver.caches is not None]
    return Remains(
        used=_used(places, tokens.directory, mountinfo.read(node.host.proc)),
        files=(
            places.own,
            *hostfs.EOS_CONFIGURATION.glob(f"fuse.*{suffix}.conf"),
            *(hostfs.EOS_LOGS / f"nodeshare.{mount.name}.log" for mount in config.mounts),
        ),
        # A drain takes away those in which everything was sent to the server.
        valuable=[place for one in caches for place in one.glob(f"*{suffix}")],
        directories=(*caches, hostfs.CACHES),
        errands=(Errand(what, tokens.remove),) if tokens.directory.exists() else (),
    )


def _used(
    places: Places, tokens: Path, table: tuple[MountEntry, ...]
) -> Callable[[MountEntry], str | None]:
    """By what the node shows below the root now: a container has the same file system mounted."""
    root = str(places.root)
    shown = {
        entry.device: str(PurePosixPath(entry.mount_point).relative_to(root))
        for entry in mountinfo.below(table, root)
        if entry.mount_point != root and not is_anchor(entry)
    }
    ground = mountinfo.at(table, root)
    secret = {e.device for e in mountinfo.at(table, tokens.resolve()) if e.source == SOURCE}

    def used(entry: MountEntry) -> str | None:
        if entry.device in secret and entry.root != "/":
            return "the tokens of its user"
        # A pod that has a part of the node's tree, with our directory at its place in it.
        if not entry.mount_point.startswith(root) and f"{root}/" in f"{entry.mount_point}/":
            return None
        if entry.device in shown:
            return f"the mount {shown[entry.device]!r} at {entry.mount_point!r}"
        if ground and (entry.device, entry.root) == (ground[-1].device, ground[-1].root):
            return f"all mounts below {entry.mount_point!r}"
        return None

    return used
