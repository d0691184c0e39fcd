# SPDX-License-Identifier: Apache-2.0
"""`nodeshare_mount_scratch_…`, from what the last runs told. No user's name is a label."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from fuse_mounter.scratch.keeper import ScratchStatus
from fuse_mounter.scratch.outcome import Skipped

_NUMBERS = (
    ("scanned_files", "scanned", "Files that the last run saw."),
    ("scanned_bytes", "scanned_bytes", "What they occupied."),
    ("due_files", "removed", "Files that the last run removed, or would have if it were armed."),
    ("due_bytes", "removed_bytes", "What that freed, or would have."),
    ("announced_bytes", "announced_bytes", "What is announced to go."),
)
_TIMES = (
    ("duration_seconds", "seconds", "How long the last run took."),
    ("last_run_timestamp_seconds", "last_run", "When the last run began (seconds of the epoch)."),
    ("next_run_timestamp_seconds", "next_run", "When the next one begins."),
)


def collect(prefix: str, statuses: Sequence[ScratchStatus]) -> Iterable[Metric]:
    """All families; `prefix` is such as `nodeshare_mount`."""
    yield from _counters(f"{prefix}_scratch", statuses)
    armed = _gauge(f"{prefix}_scratch_armed", "1 when files are removed, 0 when only counted.")
    for one in statuses:
        armed.add_metric([one.name], float(one.armed))
    yield armed
    for name, key, text in _NUMBERS:
        family = _gauge(f"{prefix}_scratch_{name}", text)
        for one in statuses:
            if one.outcome is not None:
                family.add_metric([one.name], one.outcome[key])
        yield family
    for name, attribute, text in _TIMES:
        family = _gauge(f"{prefix}_scratch_{name}", text)
        for one in statuses:
            if (value := getattr(one, attribute)) is not None:
                family.add_metric([one.name], value)
        yield family
    yield from _details(f"{prefix}_scratch", statuses)


def _counters(prefix: str, statuses: Sequence[ScratchStatus]) -> Iterable[Metric]:
    runs = CounterMetricFamily(
        f"{prefix}_runs", "Runs, by how they ended.", labels=["scratch", "result"]
    )
    files = CounterMetricFamily(f"{prefix}_removed_files", "Files removed.", labels=["scratch"])
    size = CounterMetricFamily(
        f"{prefix}_removed_bytes", "Bytes that this freed.", labels=["scratch"]
    )
    for one in statuses:
        for result, count in one.runs.items():
            runs.add_metric([one.name, result], count)
        files.add_metric([one.name], one.removed)
        size.add_metric([one.name], one.removed_bytes)
    return runs, files, size


def _details(prefix: str, statuses: Sequence[ScratchStatus]) -> Iterable[Metric]:
    skipped = GaugeMetricFamily(
        f"{prefix}_skipped_files",
        "What the last run did not remove although it is old, or did not look at, by reason.",
        labels=["scratch", "reason"],
    )
    oldest = _gauge(
        f"{prefix}_oldest_timestamp_seconds",
        "Last use of the oldest file that stays (seconds of the epoch).",
    )
    for one in statuses:
        if one.outcome is None:
            continue
        for why in Skipped:
            skipped.add_metric([one.name, why.value], one.outcome["skipped"].get(why.value, 0))
        if one.outcome["oldest"] is not None:
            oldest.add_metric([one.name], one.outcome["oldest"])
    return skipped, oldest


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=["scratch"])
