# SPDX-License-Identifier: Apache-2.0
"""Since when a container is idle, and when that cannot be told."""

from __future__ import annotations

from dataclasses import replace

from gpu_plugin.accounting import GpuContainer
from gpu_plugin.container_activity import Activity, ActivityClock
from tests.fakes.gpu_scans import FIRST, GIB, container, grant, scan, use

ADA = container("ada", grant("a"), use(11, GIB))
EMMY = container("emmy", grant("b"), use(12, GIB))


def busy(found: GpuContainer, *parts: float | None) -> GpuContainer:
    uses = zip(found.uses, parts, strict=True)
    return replace(found, uses=tuple(replace(one, utilisation=part) for one, part in uses))


def test_what_its_processes_do_is_told_by_process() -> None:
    clock = ActivityClock()
    clock.look(scan(busy(ADA, 0.2), busy(EMMY, 0.0), at=100.0))
    found = clock.look(scan(busy(ADA, 0.0), busy(EMMY, 0.7), at=160.0))
    assert found[ADA.key, FIRST] == Activity(100.0, 0.0)
    assert found[EMMY.key, FIRST] == Activity(160.0, 0.7)
    two = container("ada", grant("a"), use(11, GIB), use(13, GIB))
    assert clock.look(scan(busy(two, 0.5, 0.8), at=161.0))[ADA.key, FIRST].utilisation == 1.0
    half_told = clock.look(scan(busy(two, 0.5, None), busy(EMMY, 0.0), at=162.0))
    assert half_told[ADA.key, FIRST] == Activity(None, None)


def test_the_devices_own_load_counts_for_who_is_alone_on_it() -> None:
    clock = ActivityClock()
    load: dict[str, float | None] = {FIRST: 0.4}
    assert clock.look(scan(ADA, at=100.0, utilisation=load))[ADA.key, FIRST].utilisation == 0.4
    load = {FIRST: 0.0}
    assert clock.look(scan(ADA, at=150.0, utilisation=load))[ADA.key, FIRST].active_at == 100.0
    load = {FIRST: 0.9}
    shared = clock.look(scan(ADA, EMMY, at=160.0, utilisation=load))
    assert shared[ADA.key, FIRST] == Activity(None, None)
    beside_host = scan(ADA, at=161.0, utilisation=load, host=(use(5, GIB),))
    assert clock.look(beside_host)[ADA.key, FIRST] == Activity(None, None)


def test_memory_and_processes_that_change_are_activity() -> None:
    clock = ActivityClock()
    load: dict[str, float | None] = {FIRST: 0.0}
    clock.look(scan(ADA, at=100.0, utilisation=load))
    more = container("ada", grant("a"), use(11, 2 * GIB))
    assert clock.look(scan(more, at=101.0, utilisation=load))[ADA.key, FIRST].active_at == 101.0
    other = container("ada", grant("a"), use(99, 2 * GIB))
    assert clock.look(scan(other, at=102.0, utilisation=load))[ADA.key, FIRST].active_at == 102.0


def test_without_a_process_it_is_idle_for_certain() -> None:
    clock = ActivityClock()
    none = container("ada", grant("a"))
    clock.look(scan(none, at=100.0))
    assert clock.look(scan(none, at=500.0))[ADA.key, FIRST] == Activity(100.0, None)


def test_a_job_of_constant_memory_is_not_taken_for_idle_where_nothing_is_told() -> None:
    clock = ActivityClock()
    clock.look(scan(ADA, at=100.0))
    assert clock.look(scan(ADA, at=9000.0))[ADA.key, FIRST] == Activity(None, None)


def test_an_agent_that_starts_takes_nobody_for_idle_and_forgets_who_is_gone() -> None:
    clock = ActivityClock()
    load: dict[str, float | None] = {FIRST: 0.0}
    assert clock.look(scan(ADA, at=100.0, utilisation=load))[ADA.key, FIRST].active_at == 100.0
    clock.look(scan(at=200.0))
    assert clock.look(scan(ADA, at=300.0, utilisation=load))[ADA.key, FIRST].active_at == 300.0


def test_a_device_that_does_not_answer_stops_no_clock() -> None:
    clock = ActivityClock()
    load: dict[str, float | None] = {FIRST: 0.0}
    clock.look(scan(ADA, at=100.0, utilisation=load))
    deaf = scan(ADA, at=110.0)
    assert clock.look(replace(deaf, devices={})) == {}
    assert clock.look(scan(ADA, at=120.0, utilisation=load))[ADA.key, FIRST].active_at == 100.0
