# SPDX-License-Identifier: Apache-2.0
"""`nodeshare_view_affinity_…`: how answering stands, over counts that the answering thread keeps.
No ids of containers."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

from lxcfs_helper.affinity.status import Standing
from lxcfs_helper.affinity.tally import Durations, Outcome, Tally


def collect(standing: Standing, tally: Tally, *, can_start: bool) -> Iterator[Metric]:
    """Every family always. `can_start`: pods with our profiles, on this node."""
    ready = GaugeMetricFamily(
        "nodeshare_view_affinity_ready",
        "1 if pods with our seccomp profiles can start here: they are installed, and heard. Absent "
        "while affinity is off.",
    )
    if standing.enabled:
        ready.add_metric([], float(can_start))
    yield ready
    yield from _gauges(standing, tally)
    calls = CounterMetricFamily(
        "nodeshare_view_affinity_calls",
        "System calls of containers by what became of them; kernel: left to it, which is right.",
        labels=["call", "result"],
    )
    for (call, result), number in [*tally.calls.items()]:
        calls.add_metric([call.value, result.value], number)
    yield calls
    held = CounterMetricFamily(
        "nodeshare_view_affinity_held_programs",
        "Programs that were to be started and waited for views, by how their wait ended.",
        labels=["outcome"],
    )
    for outcome in Outcome:
        held.add_metric([outcome.value], tally.held[outcome])
    yield held
    hung = CounterMetricFamily(
        "nodeshare_view_affinity_hung_calls",
        "Calls that held up the thread that answers, which was then replaced.",
    )
    hung.add_metric([], tally.hung)
    yield hung
    yield _histogram(
        "nodeshare_view_affinity_call_seconds",
        "How long calls took here, from when they were received.",
        tally.call_durations,
    )
    yield _histogram(
        "nodeshare_view_affinity_held_seconds",
        "How long programs waited for views.",
        tally.held_durations,
    )


def _gauges(standing: Standing, tally: Tally) -> Iterator[Metric]:
    counts, last_at = standing.counts, tally.last_at
    connected = GaugeMetricFamily(
        "nodeshare_view_affinity_connected",
        "1 if calls of containers are answered here; 0 if the kernel answers them all. Absent "
        "while affinity is off.",
    )
    if standing.enabled:
        connected.add_metric([], float(counts is not None and standing.problem is None))
    yield connected
    containers = GaugeMetricFamily(
        "nodeshare_view_affinity_containers",
        "Containers whose profile has calls notified, by whether they are answered.",
        labels=["state"],
    )
    answered = len(standing.answered)
    containers.add_metric(["answered"], answered)
    others = 0 if counts is None else max(0, counts.containers - answered)
    containers.add_metric(["excluded"], others)
    yield containers
    descriptors = GaugeMetricFamily(
        "nodeshare_view_affinity_descriptors",
        "Descriptors that are listened to: one for each container and each exec into one.",
    )
    descriptors.add_metric([], 0 if counts is None else counts.descriptors)
    yield descriptors
    waiting = GaugeMetricFamily(
        "nodeshare_view_affinity_waiting_programs", "Programs that wait for views now."
    )
    waiting.add_metric([], 0 if counts is None else counts.waiting)
    yield waiting
    last = GaugeMetricFamily(
        "nodeshare_view_affinity_last_call_age_seconds",
        "Time since a call was last dealt with; absent before the first one.",
    )
    if last_at is not None:
        last.add_metric([], time.monotonic() - last_at)
    yield last


def _histogram(name: str, text: str, durations: Durations) -> Metric:
    family = HistogramMetricFamily(name, text)
    buckets = [
        ("+Inf" if math.isinf(bound) else str(bound), float(count))
        for bound, count in durations.cumulated()
    ]
    family.add_metric([], buckets=buckets, sum_value=durations.sum_s)
    return family
