# SPDX-License-Identifier: Apache-2.0
"""The metrics of mounts, from the last published status. Knows nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from agents.metrics import GuardedCollector
from fuse_mounter.record import MountStatus
from fuse_mounter.states import USABLE, Cause, State

PREFIX = "nodeshare_mount"

Statuses = Callable[[], tuple[MountStatus, ...]]


def collector(statuses: Statuses) -> GuardedCollector:
    """All of them."""
    return GuardedCollector(
        PREFIX,
        {
            "state": lambda: _state(statuses()),
            "recovery": lambda: _recovery(statuses()),
            "probe": lambda: _probe(statuses()),
        },
    )


def _state(statuses: Iterable[MountStatus]) -> Iterable[Metric]:
    state = GaugeMetricFamily(
        f"{PREFIX}_state", "1 for the state that a mount is in.", labels=["mount", "state"]
    )
    up = GaugeMetricFamily(f"{PREFIX}_up", "1 if pods can use the mount.", labels=["mount"])
    layers = GaugeMetricFamily(
        f"{PREFIX}_layers",
        "Mounts on each other above the anchor; more than 1 only on kernels before 6.5.",
        labels=["mount"],
    )
    for one in statuses:
        for possible in State:
            state.add_metric([one.name, possible.value], float(one.state is possible))
        up.add_metric([one.name], float(one.state in USABLE))
        layers.add_metric([one.name], one.layers)
    return state, up, layers


def _recovery(statuses: Iterable[MountStatus]) -> Iterable[Metric]:
    recoveries = CounterMetricFamily(
        f"{PREFIX}_recoveries",
        "How often a mount was brought back, by what it had lost.",
        labels=["mount", "cause"],
    )
    gap = GaugeMetricFamily(
        f"{PREFIX}_gap_seconds",
        "For how long the mount was not usable at its last recovery.",
        labels=["mount"],
    )
    for one in statuses:
        for cause in Cause:
            recoveries.add_metric([one.name, cause.value], one.recoveries.get(cause.value, 0))
        if one.last_gap_s is not None:
            gap.add_metric([one.name], one.last_gap_s)
    return recoveries, gap


def _probe(statuses: Iterable[MountStatus]) -> Iterable[Metric]:
    seconds = GaugeMetricFamily(
        f"{PREFIX}_probe_seconds",
        "How long the last statvfs took, with the start of the child that asks.",
        labels=["mount"],
    )
    waiting = GaugeMetricFamily(
        f"{PREFIX}_fuse_waiting",
        "Requests that the FUSE client has not answered yet.",
        labels=["mount"],
    )
    for one in statuses:
        if one.probe_s is not None:
            seconds.add_metric([one.name], one.probe_s)
        if one.waiting is not None:
            waiting.add_metric([one.name], one.waiting)
    return seconds, waiting
