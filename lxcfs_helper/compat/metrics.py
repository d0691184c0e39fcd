# SPDX-License-Identifier: Apache-2.0
"""`nodeshare_view_root_…`: how the compatible root stands, over the published status."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

STATES = ("served", "starting", "refused", "failed")


def collect(root: Mapping[str, Any]) -> Iterator[Metric]:
    """Every family always; no numbers where no root is configured."""
    configured = bool(root.get("path"))
    state = GaugeMetricFamily(
        "nodeshare_view_root_state",
        "1 for the state that the lxcfs-compatible root is in; refused: something else is there.",
        labels=["state"],
    )
    for name in STATES if configured else ():
        state.add_metric([name], float(root["state"] == name))
    yield state
    virtual = GaugeMetricFamily(
        "nodeshare_view_root_virtual",
        "0 while SIGUSR2 has everybody see the host's values.",
    )
    if configured:
        virtual.add_metric([], float(root["virtual"]))
    yield virtual
    yield from _counters(root if configured else {})


def _counters(root: Mapping[str, Any]) -> Iterator[Metric]:
    opens = CounterMetricFamily(
        "nodeshare_view_root_opens", "Files of the root that were opened.", labels=["view"]
    )
    for view, number in sorted(by_view(root.get("opens", {})).items()):
        opens.add_metric([view], number)
    yield opens
    answers = CounterMetricFamily(
        "nodeshare_view_root_host_answers",
        "Requests answered with the host's values because a container's could not be told.",
        labels=["reason"],
    )
    for reason, number in sorted(root.get("host_answers", {}).items()):
        answers.add_metric([reason], number)
    yield answers
    errors = CounterMetricFamily(
        "nodeshare_view_root_errors", "Reads of the root that were answered with an error."
    )
    if root:
        errors.add_metric([], root["errors"])
    yield errors
    restarts = CounterMetricFamily(
        "nodeshare_view_root_restarts", "How often the process that serves the root ended."
    )
    if root:
        restarts.add_metric([], root["restarts"])
    yield restarts


def by_view(opens: Mapping[str, int]) -> dict[str, int]:
    """`proc/meminfo` is `meminfo`, `proc/pressure/io` is `pressure`, all below /sys is `cpu`."""
    found: dict[str, int] = {}
    for path, number in opens.items():
        parts = path.split("/")
        view = parts[1] if parts[0] == "proc" else "cpu"
        found[view] = found.get(view, 0) + number
    return found
