# SPDX-License-Identifier: Apache-2.0
"""The metrics of signs: what clients and the kernel tell of mounts, from the last published status.

Knows no driver: a measurement brings its name, help and kind with it.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from fuse_mounter.drivers.base import Measurement
from fuse_mounter.record import MountStatus


def collect(prefix: str, statuses: Iterable[MountStatus]) -> Iterable[Metric]:
    """One family for every name that some mount has told."""
    families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
    for status in statuses:
        for one in status.sign.measurements if status.sign else ():
            family = families.get(one.name)
            if family is None:
                family = families[one.name] = _family(prefix, one)
            family.add_metric([status.name, *(value for _, value in one.labels)], one.value)
    return families.values()


def _family(prefix: str, one: Measurement) -> GaugeMetricFamily | CounterMetricFamily:
    labels = ["mount", *(name for name, _ in one.labels)]
    made = CounterMetricFamily if one.kind == "counter" else GaugeMetricFamily
    return made(f"{prefix}_{one.name}", one.help, labels=labels)
