# SPDX-License-Identifier: Apache-2.0
"""What is shown after a scan, and for how long it counts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from agents.logs import get_logger
from agents.pod_event import tell_nobody
from gpu_plugin.container_overview import Overview
from gpu_plugin.container_page import VALID_S
from gpu_plugin.container_watch import ContainerWatch
from tests.fakes.gpu_scans import GIB, container, grant, scan, use, verdict


def test_an_old_scan_says_nothing_about_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when procfs hangs: metrics and `/status.json` show nothing, rather than what was."""
    watch = ContainerWatch(
        tmp_path,
        tmp_path,
        inventory=lambda: None,
        tell_pod=tell_nobody,
        observing=False,
        registry=CollectorRegistry(),
        log=get_logger(),
    )
    assert watch.shown() == Overview()
    ada = container("ada", grant("a"), use(11, 6 * GIB))
    watch.scanned(scan(ada), verdict(ada).values(), ())
    (row,) = watch.shown().containers
    assert (row.pod, row.used) == ("ada", 6 * GIB)
    later = time.monotonic() + VALID_S
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert watch.shown() == Overview()
