# SPDX-License-Identifier: Apache-2.0
"""What of this agent is on a machine although it does not run: views in containers, the compatible
root and seccomp profiles, all of which `nodeshare view eject` takes away, and empty directories.
"""

from __future__ import annotations

from pathlib import Path

from agents.config import NodeConfig, Section
from agents.hostfs import PROC, SYS
from agents.mountinfo import MountEntry
from agents.remains import Remains
from lxcfs_helper.compat.keeper import directory
from lxcfs_helper.files import source_name, views_directory


def remains(node: NodeConfig, section: Section | None) -> Remains:
    """The same with and without a section."""
    views = views_directory(node.run_dir)
    source = source_name(views)

    def used(entry: MountEntry) -> str | None:
        # A cgroup's own file does not say who attached it: it never comes alone. Elsewhere than in
        # these two it is the whole directory, in a pod that has a part of the node's tree.
        place = Path(entry.mount_point)
        attached = place.is_relative_to(PROC) or place.is_relative_to(SYS)
        ours = entry.source == source and attached
        return "its views: it will see the node's CPUs and memory" if ours else None

    return Remains(used=used, files=(views, directory(node.run_dir)), labels=_labels())


def _labels() -> tuple[str, ...]:
    from lxcfs_helper.affinity.profile_keeper import LABEL

    return (LABEL,)
