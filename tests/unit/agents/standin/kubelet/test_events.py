# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading

from agents.standin.kubelet.events import EventKind, EventLog, OpenCalls


def test_the_log_is_bounded_and_can_be_asked_by_kind_and_resource() -> None:
    log = EventLog(threading.Condition(), keep=3)
    for number in range(4):
        log.add(EventKind.LISTED, f"r/{number % 2}", str(number))
    log.add(EventKind.REPLACED, "r/0", "x")
    assert [event.text for event in log.all()] == ["2", "3", "x"]
    assert [event.text for event in log.of(EventKind.LISTED)] == ["2", "3"]
    assert [event.text for event in log.of(EventKind.LISTED, "r/0")] == ["2"]


def test_a_call_that_is_out_for_long_is_noted_once() -> None:
    log = EventLog(threading.Condition())
    calls = OpenCalls(log)
    with calls.track("Allocate", "r/a"):
        calls.report_slow(60.0)
        assert log.all() == ()
        calls.report_slow(-1.0)
        calls.report_slow(-1.0)
        assert [(event.kind, event.resource) for event in log.all()] == [
            (EventKind.SLOW_CALL, "r/a")
        ]
    calls.report_slow(-1.0)
    assert len(log.all()) == 1
