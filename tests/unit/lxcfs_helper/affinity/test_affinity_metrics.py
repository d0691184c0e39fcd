# SPDX-License-Identifier: Apache-2.0
"""What is told of answered calls."""

from __future__ import annotations

import time
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from lxcfs_helper.affinity import metrics
from lxcfs_helper.affinity.status import Standing
from lxcfs_helper.affinity.syscalls import Call
from lxcfs_helper.affinity.tally import Durations, Outcome, Result, Tally
from lxcfs_helper.metrics import collector


@dataclass
class Counts:
    containers: int = 3
    descriptors: int = 5
    waiting: int = 1


def sample(standing: Standing, tally: Tally, name: str, **labels: str) -> float | None:
    registry = CollectorRegistry()
    registry.register(collector(dict, lambda: metrics.collect(standing, tally, can_start=True)))
    return registry.get_sample_value(f"nodeshare_view_affinity_{name}", labels)


def test_what_was_done_is_counted() -> None:
    tally, standing = Tally(), Standing(True, None, frozenset({"a", "b"}), Counts())
    now = time.monotonic()
    tally.call(Call.SYSINFO, Result.ANSWERED, now)
    tally.call(Call.SYSINFO, Result.ANSWERED, now - 0.003)
    tally.call(Call.EXECVE, Result.KERNEL, now)
    tally.let_go(Outcome.LATE, now - 10)

    def of(name: str, **labels: str) -> float | None:
        return sample(standing, tally, name, **labels)

    assert of("connected") == of("ready") == 1
    assert of("containers", state="answered") == 2
    assert of("containers", state="excluded") == 1
    assert of("descriptors") == 5
    assert of("waiting_programs") == 1
    assert of("calls_total", call="sysinfo", result="answered") == 2
    assert of("calls_total", call="execve", result="kernel") == 1
    assert of("held_programs_total", outcome="late") == 1
    assert of("held_programs_total", outcome="attached") == 0
    assert of("call_seconds_count") == 3
    assert of("held_seconds_bucket", le="5.0") == 0
    assert of("held_seconds_bucket", le="+Inf") == 1
    age = of("last_call_age_seconds")
    assert age is not None
    assert 0 <= age < 60
    document = standing.to_json(tally)
    assert document["calls"] == {"execve kernel": 1, "sysinfo answered": 2}
    assert document["held_programs"] == {"late": 1}


def test_without_anybody_to_answer_all_is_zero() -> None:
    standing, tally = Standing(False, None, frozenset(), None), Tally()
    assert sample(standing, tally, "connected") is None
    assert sample(standing, tally, "ready") is None
    assert sample(standing, tally, "descriptors") == 0
    assert sample(standing, tally, "last_call_age_seconds") is None
    broken = Standing(True, "no holder", frozenset(), Counts())
    assert sample(broken, tally, "connected") == 0


def test_durations_are_counted_up_to_their_bound() -> None:
    durations = Durations((0.1, 1.0))
    for seconds in (0.1, 0.2, 5.0):
        durations.add(seconds)
    assert [count for _, count in durations.cumulated()] == [1, 2, 3]
    assert durations.sum_s == 5.3
