# SPDX-License-Identifier: Apache-2.0
"""`nodeshare_view_…`: counters where things happen, gauges over the last published status.

Knows no cgroup and no mount. No pod names and no container ids.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Metric
from prometheus_client.core import GaugeMetricFamily

from agents.agent import Status
from agents.metrics import GuardedCollector
from lxcfs_helper.config import ViewName
from lxcfs_helper.coverage import Sweep
from lxcfs_helper.inject import Outcome, Result, Step

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
        self._sweep_seconds = Counter(
            "nodeshare_view_sweep_seconds",
            "Time spent on bringing the files of all containers up to date.",
            registry=registry,
        )
        self._rendered = Counter(
            "nodeshare_view_rendered_containers",
            "Containers whose files were rendered again because something had moved.",
            registry=registry,
        )
        for step in _STEPS.values():
            self._injections.labels(step)

    def swept(self, sweep: Sweep) -> None:
        self._sweep_seconds.inc(sweep.duration_s)
        self._rendered.inc(sweep.rendered)

    def injected(self, results: Iterable[Result], *, repair: bool) -> None:
        """`repair`: everything had been in place there before."""
        for result in results:
            for step in result.steps:
                self._injections.labels(_STEPS[step]).inc()
            if repair and result.outcome is Outcome.SHOWN and result.steps:
                self._repairs.inc()
            if result.outcome is Outcome.FAILED:
                self._failures.inc()


def collector(status: Callable[[], Status]) -> GuardedCollector:
    """The gauges, to be registered once."""
    return GuardedCollector(
        "nodeshare_view",
        {"containers": lambda: _containers(status()), "sweep": lambda: _sweep(status())},
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
    kernel = GaugeMetricFamily(
        "nodeshare_view_kernel_feature",
        "1 if the kernel has this feature; without beneath, mounts are stacked when replaced.",
        labels=["feature"],
    )
    for feature, present in status.get("kernel", {}).items():
        kernel.add_metric([feature], float(present))
    yield kernel
