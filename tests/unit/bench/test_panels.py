# SPDX-License-Identifier: Apache-2.0
"""Drawing dashboards: every panel has a value in its unit, or says that it has none."""

from __future__ import annotations

from typing import Any

import pytest

from tests.bench.panels import Drawing, shown
from tests.fakes import grafana

DASHBOARDS = {dashboard["uid"]: dashboard for dashboard in grafana.dashboards()}


class Invented(Drawing):
    """Everything has one series, or nothing has one."""

    def __init__(self, *, empty: bool = False) -> None:
        super().__init__("http://nowhere", seconds=60, interval_s=15)
        self.empty = empty

    def _ask(self, path: str, expression: str, **more: float) -> list[dict[str, Any]]:
        if self.empty:
            return []
        sample = [self._now - 1, "0.5"]
        labels = dict.fromkeys(("node", "pod", "mount", "state", "resource"), "<script>")
        return [{"metric": labels, "value": sample, "values": [sample]}]


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_every_panel_is_drawn(uid: str) -> None:
    page, height = Invented().page(DASHBOARDS[uid])
    for panel in grafana.panels(DASHBOARDS[uid]):
        assert f"<h3>{panel['title']}</h3>" in page.replace("&#x27;", "'")
    assert "(no data)" not in page
    assert "<script>" not in page
    assert height > 1000


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_an_empty_panel_is_seen(uid: str) -> None:
    page, _ = Invented(empty=True).page(DASHBOARDS[uid])
    assert page.count("(no data)") == len(grafana.panels(DASHBOARDS[uid]))


def test_units_are_worded() -> None:
    assert shown(3 << 30, "bytes") == "3 GiB"
    assert shown(2048, "binBps") == "2 KiB/s"
    assert shown(0.75, "percentunit") == "75 %"
    assert shown(0.0012, "s") == "1.2 ms"
    assert shown(7200, "s") == "2 h"
    assert shown(0, "bytes") == "0"
    assert shown(31, "short") == "31"
