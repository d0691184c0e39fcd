# SPDX-License-Identifier: Apache-2.0
"""What Prometheus and people are shown."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry

from agents import tables
from lxcfs_helper.agent import AGENT
from lxcfs_helper.inject import Outcome, Result, Step
from lxcfs_helper.metrics import Counters, collector
from lxcfs_helper.sweep import Sweep


def row(pod: str, **views: str) -> dict[str, Any]:
    return {
        "namespace": "jupyter",
        "pod": pod,
        "container": "main",
        "id": pod,
        "cpus": 2,
        "memory_limit": 512 << 20,
        "memory_used": 128 << 20,
        "views": views,
    }


STATUS = {
    "containers": [
        row("ada", meminfo="attached", cpu="attached"),
        row("grace", meminfo="failed: operation not permitted", cpu="host"),
        row("emmy", meminfo="excluded", cpu="excluded"),
    ],
    "sweep": {"containers": 2, "rendered": 1, "seconds": 0.25, "oldest_seconds": 1.5},
    "excluded": {"namespaces": 1},
    "failed": {"attach": 1},
    "unknown": {"meminfo": {"Slab": 2}},
    "read": 1,
    "features": {"beneath": True, "runtime_events": False},
}


def test_gauges_count_containers_by_view_and_state() -> None:
    registry = CollectorRegistry()
    registry.register(collector(lambda: STATUS))

    def containers(view: str, state: str) -> float | None:
        return registry.get_sample_value(
            "nodeshare_view_containers", {"view": view, "state": state}
        )

    assert containers("meminfo", "attached") == 1
    assert containers("meminfo", "failed") == 1, "whatever the reason"
    assert containers("cpu", "host") == 1
    assert containers("cpu", "excluded") == 1
    assert containers("stat", "attached") == 0
    assert registry.get_sample_value("nodeshare_view_oldest_seconds") == 1.5
    assert registry.get_sample_value("nodeshare_view_last_sweep_seconds") == 0.25
    assert {
        ("kernel_feature", "feature", "beneath"): 1,
        ("kernel_feature", "feature", "runtime_events"): 0,
        ("excluded_containers", "reason", "namespaces"): 1,
        ("excluded_containers", "reason", "pod"): 0,
        ("failed_containers", "step", "attach"): 1,
        ("failed_containers", "step", "write"): 0,
    }.items() <= {
        (name.removeprefix("nodeshare_view_"), *label): value
        for family in registry.collect()
        for name, labels, value, *_ in family.samples
        for label in labels.items()
    }.items()
    unknown = {"view": "meminfo", "value": "Slab"}
    assert registry.get_sample_value("nodeshare_view_unknown_values", unknown) == 2
    assert registry.get_sample_value("nodeshare_view_read_containers") == 1


def test_before_anything_was_published_nothing_fails() -> None:
    registry = CollectorRegistry()
    registry.register(collector(dict))
    success = "nodeshare_view_collector_success"
    assert registry.get_sample_value(success, {"collector": "containers"}) == 1
    assert registry.get_sample_value(success, {"collector": "sweep"}) == 1


def test_counters_tell_repairs_from_first_injections() -> None:
    registry = CollectorRegistry()
    counters = Counters(registry)
    counters.injected([Result(Outcome.SHOWN, (Step.ATTACH,))], repair=False)
    counters.injected([Result(Outcome.SHOWN, (Step.REPLACE,))], repair=True)
    counters.injected([Result(Outcome.SHOWN), Result(Outcome.FAILED, (), "no")], repair=True)
    counters.swept(Sweep(containers=3, looked=3, rendered=2, views=5, cpu_s=0.5))
    counters.swept(Sweep(containers=3, looked=3, read=1, oldest_read_s=0.3))
    values = {
        "nodeshare_view_repairs_total": 1,
        "nodeshare_view_injection_failures_total": 1,
        "nodeshare_view_sweeps_total": 2,
        "nodeshare_view_sweep_cpu_seconds_total": 0.5,
        "nodeshare_view_looks_total": 6,
        "nodeshare_view_rendered_containers_total": 2,
        "nodeshare_view_rendered_views_total": 5,
        "nodeshare_view_read_age_seconds_count": 1,
        "nodeshare_view_read_age_seconds_sum": 0.3,
    }
    assert {name: registry.get_sample_value(name) for name in values} == values
    injections = "nodeshare_view_injections_total"
    assert registry.get_sample_value(injections, {"step": "attach"}) == 1
    assert registry.get_sample_value(injections, {"step": "replace"}) == 1
    assert registry.get_sample_value(injections, {"step": "detach"}) == 0


AFFINITY = {
    "enabled": True,
    "problem": None,
    "answered": ["a", "b"],
    "descriptors": 3,
    "held": 1,
    "calls": {"execve kernel": 5, "sched_getaffinity answered": 7, "sysinfo answered": 1},
    "held_programs": {"attached": 4, "late": 2},
}


def test_answered_calls_have_a_table_where_they_are_enabled() -> None:
    _, table = AGENT.tables({**STATUS, "affinity": AFFINITY})
    assert table.rows == [["2", "3", "8", "5", "0", "1", "2"]]
    (broken,) = AGENT.tables({**STATUS, "affinity": {**AFFINITY, "problem": "no holder"}})[1:]
    assert broken.note == "no holder"
    assert len(AGENT.tables({**STATUS, "affinity": {"enabled": False}})) == 1


def test_the_table_says_what_differs() -> None:
    (table,) = AGENT.tables(STATUS)
    assert [row[-1] for row in table.rows] == [
        "attached",
        "meminfo failed: operation not permitted, cpu host",
        "excluded",
    ]
    assert "jupyter/ada" in "\n".join(tables.lines([table]))
    assert AGENT.tables({})[0].note == "no container runs here"
