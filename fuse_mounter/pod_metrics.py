# SPDX-License-Identifier: Apache-2.0
"""The metrics of shared folders and of the pods' side, from what was published last.

Labels are names of mounts and closed sets: no pod, no place, no process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from fuse_mounter.attached import Attached
from fuse_mounter.bindings import Sight
from fuse_mounter.record import MountStatus

PREFIX = "nodeshare_mount"
_LOST = frozenset({Sight.LOST, Sight.MISSING})


def pods(
    attached: Iterable[Attached],
    healed: Mapping[tuple[str, bool], int],
    statuses: Iterable[MountStatus],
) -> Iterable[Metric]:
    """A container that sees a mount in two places counts once for each way in which it does."""
    bound = GaugeMetricFamily(
        f"{PREFIX}_pods",
        "Containers that see the mount, by what they bound, with which mountPropagation, and "
        "whether its next recovery reaches them.",
        labels=["mount", "bound", "propagation", "recovers"],
    )
    lost = GaugeMetricFamily(
        f"{PREFIX}_pods_lost",
        "Containers that see a mount of before, or nothing, in the place of the mount.",
        labels=["mount"],
    )
    heals = CounterMetricFamily(
        f"{PREFIX}_pod_heals",
        "Attempts to put the healthy mount over a dead one that a container still saw.",
        labels=["mount", "result"],
    )
    counts, losses = _count(attached)
    for labels, count in sorted(counts.items()):
        bound.add_metric(labels, count)
    for one in statuses:
        lost.add_metric([one.name], losses[one.name])
        for worked, result in ((True, "healed"), (False, "failed")):
            heals.add_metric([one.name, result], healed.get((one.name, worked), 0))
    return bound, lost, heals


def _count(attached: Iterable[Attached]) -> tuple[Counter[tuple[str, ...]], Counter[str]]:
    counts: Counter[tuple[str, ...]] = Counter()
    losses: Counter[str] = Counter()
    for one in attached:
        counts.update(
            {
                (
                    view.exposed.mount,
                    binding.bound.value,
                    binding.link.value,
                    "true" if view.follows else "false",
                )
                for binding in one.bindings
                for view in binding.views
            }
        )
        losses.update({view.exposed.mount for view in one.views() if view.sight in _LOST})
    return counts, losses


def folders(statuses: Iterable[MountStatus]) -> Iterable[Metric]:
    """By the names under which mounts are published besides their own."""
    good = GaugeMetricFamily(
        f"{PREFIX}_shared_folder_ok",
        "1 if a shared folder is published, with the owner, mode and default ACL it shall have.",
        labels=["mount", "path"],
    )
    mended = CounterMetricFamily(
        f"{PREFIX}_shared_folder_mended",
        "How often owner, mode or default ACL of a shared folder, or the folder itself, was set.",
        labels=["mount", "path"],
    )
    for one in statuses:
        for shared in one.shared:
            good.add_metric([one.name, shared.path], float(shared.published and not shared.problem))
            mended.add_metric([one.name, shared.path], shared.mended)
    return good, mended
