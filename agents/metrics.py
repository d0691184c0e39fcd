# SPDX-License-Identifier: Apache-2.0
"""Metrics: a collector over a published snapshot that can fail without failing the scrape. Knows no
agent.

prometheus_client answers a whole scrape with an error when one collector raises, so each is
guarded, and says with `…_collector_success` and `…_collector_duration_seconds` how it went (as
node_exporter does).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from agents.logs import get_logger

Collect = Callable[[], Iterable[Metric]]


class GuardedCollector(Collector):
    """Runs `collect` functions by subject; one that raises is logged and reported, the others go
    on.

    `prefix` is such as `nodeshare_gpu`. The functions may read snapshots only: a scrape never
    waits.
    """

    def __init__(self, prefix: str, collectors: dict[str, Collect]) -> None:
        self._prefix = prefix
        self._collectors = collectors
        self._log = get_logger()

    def describe(self) -> Iterable[Metric]:
        # Keeps the registry from collecting at registration, before anything was published.
        return ()

    def collect(self) -> Iterator[Metric]:
        success = GaugeMetricFamily(
            f"{self._prefix}_collector_success",
            "1 if this part of the metrics could be collected.",
            labels=["collector"],
        )
        duration = GaugeMetricFamily(
            f"{self._prefix}_collector_duration_seconds",
            "Time it took to collect this part of the metrics.",
            labels=["collector"],
        )
        for name, collect in self._collectors.items():
            started = time.monotonic()
            families, ok = self._guarded(name, collect)
            yield from families
            success.add_metric([name], float(ok))
            duration.add_metric([name], time.monotonic() - started)
        yield success
        yield duration

    def _guarded(self, name: str, collect: Collect) -> tuple[list[Metric], bool]:
        try:
            return list(collect()), True
        except Exception:  # noqa: BLE001 -- any bug here must cost one collector, not the scrape
            self._log.exception("metrics collector failed", collector=name)
            return [], False
