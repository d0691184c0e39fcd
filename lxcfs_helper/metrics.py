# SPDX-License-Identifier: Apache-2.0
"""`nodeshare_view_…`: counters where things happen, gauges over the last published status.

Knows no cgroup and no mount. No pod names and no container ids.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily

from agents.agent import Status
from agents.metrics import GuardedCollector
from lxcfs_helper.compat import metrics as root_metrics
from lxcfs_helper.config import ViewName
from lxcfs_helper.covered import Failure
from lxcfs_helper.inject import Outcome, Result, Step
from lxcfs_helper.selection import Exclusion
from lxcfs_helper.sweep import Sweep

_STEPS = {Step.ATTACH: "attach", Step.REPLACE: "replace", Step.DETACH: "detach"}

#: The states in which a view is counted; what else a state says is for people.
STATES = ("attached", "host", "missing", "excluded", "failed", "covered by another mount", "off")


class Counters:
    """What only ever grows."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._injections = Counter(
            "nodeshare_view_injections",
            "Mounts that were attached in, replaced in or detached from a container.",
            ["step"],
            registry=registry,
        )
        self._repairs = Counter(
            "nodeshare_view_repairs",
            "Mounts that were put back because they were missing or wrong in a covered container.",
            registry=registry,
        )
        self._failures = Counter(
            "nodeshare_view_injection_failures",
            "Targets in containers at which nothing could be attached or detached.",
            registry=registry,
        )
        self._sweeps = Counter(
            "nodeshare_view_sweeps",
            "Times that containers were looked at whose files could be brought up to date.",
            registry=registry,
        )
        self._sweep_cpu = Counter(
            "nodeshare_view_sweep_cpu_seconds",
            "CPU time spent on bringing the files of all containers up to date.",
            registry=registry,
        )
        self._looked = Counter(
            "nodeshare_view_looks",
            "Containers that were looked at for something that moved.",
            registry=registry,
        )
        self._rendered = Counter(
            "nodeshare_view_rendered_containers",
            "Containers whose files were rendered again because something had moved, or was due.",
            registry=registry,
        )
        self._views = Counter(
            "nodeshare_view_rendered_views",
            "Views that were rendered again.",
            registry=registry,
        )
        self._read_age = Histogram(
            "nodeshare_view_read_age_seconds",
            "Age of the oldest files that were read since the last look, at each look.",
            buckets=(0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0),
            registry=registry,
        )
        for step in _STEPS.values():
            self._injections.labels(step)

    def swept(self, sweep: Sweep) -> None:
        self._sweeps.inc()
        self._sweep_cpu.inc(sweep.cpu_s)
        self._looked.inc(sweep.looked)
        self._rendered.inc(sweep.rendered)
        self._views.inc(sweep.views)
        if sweep.read:
            self._read_age.observe(sweep.oldest_read_s)

    def injected(self, results: Iterable[Result], *, repair: bool) -> None:
        """`repair`: everything had been in place there before."""
        for result in results:
            for step in result.steps:
                self._injections.labels(_STEPS[step]).inc()
            if repair and result.outcome is Outcome.SHOWN and result.steps:
                self._repairs.inc()
            if result.outcome is Outcome.FAILED:
                self._failures.inc()


def collector(
    status: Callable[[], Status], affinity: Callable[[], Iterable[Metric]] = tuple
) -> GuardedCollector:
    """The gauges, to be registered once; `affinity` are those of answered calls."""
    return GuardedCollector(
        "nodeshare_view",
        {
            "containers": lambda: _containers(status()),
            "sweep": lambda: _sweep(status()),
            "root": lambda: root_metrics.collect(status().get("compat_root", {})),
            "affinity": affinity,
        },
    )


def _containers(status: Status) -> Iterator[Metric]:
    tally: Tally[tuple[str, str]] = Tally()
    for row in status.get("containers", ()):
        views: Mapping[str, str] = row["views"]
        tally.update((name, state.partition(":")[0]) for name, state in views.items())
    family = GaugeMetricFamily(
        "nodeshare_view_containers",
        "Running containers by view and by how it stands there; host: no limit makes it differ.",
        labels=["view", "state"],
    )
    for name in ViewName:
        for state in STATES:
            family.add_metric([name.value, state], tally[name.value, state])
    yield family
    yield _by_label(
        "nodeshare_view_excluded_containers",
        "Running containers that are left out, by what leaves them out.",
        "reason",
        {reason.value: 0 for reason in Exclusion} | status.get("excluded", {}),
    )
    yield _by_label(
        "nodeshare_view_failed_containers",
        "Running containers with a view that is not as it should be, by what could not be done.",
        "step",
        {failure.value: 0 for failure in Failure} | status.get("failed", {}),
    )
    unknown = GaugeMetricFamily(
        "nodeshare_view_unknown_values",
        "Containers that are shown zero, or nothing, for a value that this kernel does not tell.",
        labels=["view", "value"],
    )
    for view, values in status.get("unknown", {}).items():
        for value, count in values.items():
            unknown.add_metric([view, value], count)
    yield unknown


def _by_label(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family


def _sweep(status: Status) -> Iterator[Metric]:
    sweep = status.get("sweep", {})
    duration = GaugeMetricFamily(
        "nodeshare_view_last_sweep_seconds", "How long the last sweep over all containers took."
    )
    duration.add_metric([], sweep.get("seconds", 0.0))
    yield duration
    age = GaugeMetricFamily(
        "nodeshare_view_oldest_seconds",
        "Age of the oldest file when the last sweep began; the rest were younger.",
    )
    age.add_metric([], sweep.get("oldest_seconds", 0.0))
    yield age
    read = GaugeMetricFamily(
        "nodeshare_view_read_containers", "Containers in which somebody read their files lately."
    )
    read.add_metric([], status.get("read", 0))
    yield read
    kernel = GaugeMetricFamily(
        "nodeshare_view_kernel_feature",
        "1 if this is there and used; what is not is done in another way, later or with a gap.",
        labels=["feature"],
    )
    for feature, present in status.get("features", {}).items():
        kernel.add_metric([feature], float(present))
    yield kernel
