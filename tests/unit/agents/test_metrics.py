# SPDX-License-Identifier: Apache-2.0
"""One broken collector costs itself, not the scrape."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily

from agents.metrics import GuardedCollector


@pytest.mark.loud
def test_a_raising_collector_is_isolated(caplog: pytest.LogCaptureFixture) -> None:
    def good() -> Iterable[Metric]:
        yield GaugeMetricFamily("nodeshare_x_things", "Things.", value=3)

    def half() -> Iterable[Metric]:
        yield GaugeMetricFamily("nodeshare_x_half", "Never seen.", value=1)
        raise RuntimeError("bug")

    registry = CollectorRegistry()
    registry.register(GuardedCollector("nodeshare_x", {"good": good, "half": half}))
    text = generate_latest(registry).decode()
    assert "nodeshare_x_things 3.0" in text
    assert "nodeshare_x_half" not in text, "half a subject would mislead"
    assert 'nodeshare_x_collector_success{collector="good"} 1.0' in text
    assert 'nodeshare_x_collector_success{collector="half"} 0.0' in text
    assert 'nodeshare_x_collector_duration_seconds{collector="half"}' in text
    assert "metrics collector failed" in caplog.text
