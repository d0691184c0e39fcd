# SPDX-License-Identifier: Apache-2.0
"""What is counted about enforcement, for a whole node: its labels stay few whoever comes and goes
(`container_metrics` tells of single containers).
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Collection, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gpu_plugin.verdicts import Act, Action, Backend, Outcome, Reason, Verdict


class EnforcementCounters:
    """Registers everything at once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._acts = Counter(
            "nodeshare_gpu_enforcement_actions",
            "What was done to containers (or, outcome observed, would have been), by reason.",
            ["action", "reason", "outcome"],
            registry=registry,
        )
        self._reaction = Histogram(
            "nodeshare_gpu_reaction_seconds",
            "From the last look at which all was well to the first act: for no longer than that "
            "a container had more than it may have.",
            ["reason"],
            buckets=(0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 1.2, 1.5, 2.0, 5.0, 10.0),
            registry=registry,
        )
        self._held = Gauge(
            "nodeshare_gpu_limited_containers",
            "Containers on a device by who holds them to their limit: driver, terminate or none.",
            ["device", "backend"],
            registry=registry,
        )
        self._enforcing = Gauge(
            "nodeshare_gpu_enforcing",
            "1 if this agent acts on containers that have more than they may have; 0 if it only "
            "tells (by its mode, beside another agent, or because it cannot).",
            registry=registry,
        )
        self._problems = Gauge(
            "nodeshare_gpu_limit_problems",
            "Containers whose annotation about their limit cannot be taken as it is.",
            registry=registry,
        )
        self._devices: frozenset[str] = frozenset()
        # What comes with its first event is no increase to Prometheus.
        for reason in Reason:
            self._reaction.labels(reason.value)
        for action in (Action.WARN, Action.TERMINATE, Action.KILL):
            for reason in Reason:
                for outcome in (Outcome.DONE, Outcome.REFUSED):
                    self._acts.labels(action.value, reason.value, outcome.value)

    def acted(self, acts: Iterable[Act], now: float) -> None:
        """`now` is on the clock of the scans."""
        for act in acts:
            self._acts.labels(act.action.value, act.reason.value, act.outcome.value).inc()
            if act.since is not None:
                self._reaction.labels(act.reason.value).observe(max(0.0, now - act.since))

    def late(self, acts: Iterable[Act]) -> None:
        """Not done in time, and to be decided on anew."""
        for act in acts:
            outcome = Outcome.REFUSED.value
            self._acts.labels(act.action.value, act.reason.value, outcome).inc()

    def judged(
        self, verdicts: Iterable[Verdict], devices: Iterable[str], *, known: Collection[str]
    ) -> None:
        """All verdicts of a scan in which these devices answered. Of the others that are `known`
        the last word counts.
        """
        found = list(verdicts)
        tally = Tally((verdict.device, verdict.backend) for verdict in found)
        for device in self._devices.difference(known):
            for backend in Backend:
                self._held.remove(device, backend.value)
        for device in devices:
            for backend in Backend:
                self._held.labels(device, backend.value).set(tally[device, backend])
        self._devices = self._devices.intersection(known).union(devices)
        bad = {verdict.container for verdict in found if verdict.limits.problem is not None}
        self._problems.set(len(bad))

    def enforcing(self, active: bool) -> None:
        self._enforcing.set(float(active))
