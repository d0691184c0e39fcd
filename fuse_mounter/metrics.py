# SPDX-License-Identifier: Apache-2.0
"""The metrics of mounts, from the last published status. Knows nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from agents.metrics import Collect, GuardedCollector
from fuse_mounter import pod_metrics, sign_metrics
from fuse_mounter.publish import Way
from fuse_mounter.record import MountStatus
from fuse_mounter.standing import Standing
from fuse_mounter.states import USABLE, Cause, State

PREFIX = "nodeshare_mount"


def collector(
    standing: Callable[[], Standing], more: Mapping[str, Collect] | None = None
) -> GuardedCollector:
    """All of them, with what others collect."""
    return GuardedCollector(
        PREFIX,
        {
            "state": lambda: _state(standing().mounts),
            "recovery": lambda: _recovery(standing().mounts),
            "probe": lambda: _probe(standing().mounts),
            "space": lambda: _space(standing().mounts),
            "trouble": lambda: _trouble(standing()),
            "sign": lambda: sign_metrics.collect(PREFIX, standing().mounts),
            "shared_folders": lambda: pod_metrics.folders(standing().mounts),
            **(more or {}),
        },
    )


def _state(statuses: Iterable[MountStatus]) -> Iterable[Metric]:
    info = GaugeMetricFamily(
        f"{PREFIX}_info", "Always 1; what a mount is.", labels=["mount", "driver", "path"]
    )
    drained = GaugeMetricFamily(
        f"{PREFIX}_drained", "1 while it is away because an operator asked.", labels=["mount"]
    )
    state = GaugeMetricFamily(
        f"{PREFIX}_state", "1 for the state that a mount is in.", labels=["mount", "state"]
    )
    up = GaugeMetricFamily(f"{PREFIX}_up", "1 if pods can use the mount.", labels=["mount"])
    layers = GaugeMetricFamily(
        f"{PREFIX}_layers",
        "Mounts on each other above the anchor; more than 1 only on kernels before 6.5.",
        labels=["mount"],
    )
    published = GaugeMetricFamily(
        f"{PREFIX}_published",
        "1 for the way in which what pods see came to its place.",
        labels=["mount", "way"],
    )
    transitions = CounterMetricFamily(
        f"{PREFIX}_transitions", "How often a mount came into a state.", labels=["mount", "state"]
    )
    for one in statuses:
        info.add_metric([one.name, one.driver, one.path], 1)
        drained.add_metric([one.name], float(one.drained))
        for possible in State:
            state.add_metric([one.name, possible.value], float(one.state is possible))
            transitions.add_metric(
                [one.name, possible.value], one.transitions.get(possible.value, 0)
            )
        for way in Way:
            published.add_metric([one.name, way.value], float(one.published_by == way.value))
        up.add_metric([one.name], float(one.state in USABLE))
        layers.add_metric([one.name], one.layers)
    return info, drained, state, up, layers, published, transitions


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
    last_ok = GaugeMetricFamily(
        f"{PREFIX}_last_ok_timestamp_seconds",
        "When a probe was answered well for the last time (seconds since the epoch).",
        labels=["mount"],
    )
    for one in statuses:
        if one.probe_s is not None:
            seconds.add_metric([one.name], one.probe_s)
        if one.waiting is not None:
            waiting.add_metric([one.name], one.waiting)
        if one.last_ok is not None:
            last_ok.add_metric([one.name], one.last_ok)
    return seconds, waiting, last_ok


def _space(statuses: Iterable[MountStatus]) -> Iterable[Metric]:
    size = GaugeMetricFamily(
        f"{PREFIX}_size_bytes", "Size of the file system, as statvfs has it.", labels=["mount"]
    )
    available = GaugeMetricFamily(
        f"{PREFIX}_available_bytes", "Room for users who are not root.", labels=["mount"]
    )
    inodes = GaugeMetricFamily(
        f"{PREFIX}_inodes",
        "Inodes of the file system; 0: it does not count them.",
        labels=["mount"],
    )
    free = GaugeMetricFamily(
        f"{PREFIX}_inodes_free", "Inodes for users who are not root.", labels=["mount"]
    )
    for one in statuses:
        if one.space is not None:
            size.add_metric([one.name], one.space.size)
            available.add_metric([one.name], one.space.available)
            inodes.add_metric([one.name], one.space.inodes)
            free.add_metric([one.name], one.space.inodes_free)
    return size, available, inodes, free


def _trouble(standing: Standing) -> Iterable[Metric]:
    aborts = CounterMetricFamily(
        f"{PREFIX}_aborts", "Hung FUSE connections that were broken.", labels=["mount"]
    )
    requests = CounterMetricFamily(
        f"{PREFIX}_aborted_requests",
        "Requests that got an error because their hung connection was broken.",
        labels=["mount"],
    )
    preflight = CounterMetricFamily(
        f"{PREFIX}_preflight_failures",
        "How often something that the driver needs was found missing.",
        labels=["mount", "driver"],
    )
    for one in standing.mounts:
        aborts.add_metric([one.name], one.aborts)
        requests.add_metric([one.name], one.aborted_requests)
        preflight.add_metric([one.name, one.driver], one.preflight_failures)
    breaker = GaugeMetricFamily(
        f"{PREFIX}_breaker_open",
        "1 while a server that failed again and again is waited for, by all mounts of it.",
        labels=["server"],
    )
    for server in sorted({one.server for one in standing.mounts if one.server}):
        breaker.add_metric([server], float(server in standing.breakers))
    return aborts, requests, preflight, breaker, *_restarts(standing)


def _restarts(standing: Standing) -> Iterable[Metric]:
    restarts = standing.restarts
    yield GaugeMetricFamily(
        f"{PREFIX}_starts_under_way",
        "Mounts that begin in this moment.",
        value=restarts.under_way,
    )
    if (limit := standing.request_timeout.seconds) is not None:
        yield GaugeMetricFamily(
            f"{PREFIX}_request_timeout_seconds",
            "The kernel's limit for FUSE requests of this node; 0: none.",
            value=limit,
        )
    yield GaugeMetricFamily(
        f"{PREFIX}_starts_waiting",
        "Mounts that wait for their turn to begin (health.restarts_at_once).",
        value=restarts.waiting,
    )
