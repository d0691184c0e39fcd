# SPDX-License-Identifier: Apache-2.0
"""When the driver is opened anew: soon, then ever more seldom, and anew for the next loss."""

from __future__ import annotations

from gpu_plugin.reopening import Reopening


def test_ever_more_seldom_and_from_the_start_for_the_next_loss() -> None:
    reopening = Reopening(10.0, 60.0)
    assert [now for now in range(300) if reopening.due(True, now)] == [10, 30, 70, 130, 190, 250]
    assert not reopening.due(False, 300)
    assert [now for now in range(400, 440) if reopening.due(True, now)] == [410, 430]
