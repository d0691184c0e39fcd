# SPDX-License-Identifier: Apache-2.0
"""What counts as in use: podresources, and what was given out since."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable

import pytest

from agents.podresources import PodDevices
from gpu_plugin import capacity, placement
from gpu_plugin.ledger import ADMISSION_S, Claim, Held, Ledger, held, held_by, listed
from gpu_plugin.placement import Refused
from gpu_plugin.resources import Resource, plan
from tests.fakes.gpus import gpu, machine, rule

A, B = gpu(0).uuid, gpu(1).uuid
NAME = "nodeshare/gpu-memory"
EIGHT, TWENTY = plan(
    [rule("nodeshare/gpu", blocks={"8g": "8GiB", "20g": "20GiB"})], machine(gpu(0), gpu(1))
).resources
PLAIN = plan([rule()], machine(gpu(0), gpu(1))).resources[0]


class Bench:
    """A ledger with a clock by hand, and what processes carry."""

    def __init__(self, *, known: bool = True) -> None:
        self.now = 1000.0
        self.carried: set[str] | None = set()
        self.looked_for: list[frozenset[str]] = []
        self.changes = 0
        self.ledger = Ledger(self.changed, clock=lambda: self.now)
        if known:
            self.settle()
            self.changes = 0

    def changed(self) -> None:
        self.changes += 1

    def give(self, resource: Resource, *ids: str, name: str = "") -> Claim:
        claim = self.ledger.claim(resource, placement.check(resource, ids))
        if name:
            claim.keep(name)
        return claim

    def settle(self, *lists: Held, asked_at: float | None = None) -> None:
        def mounted(names: frozenset[str]) -> set[str] | None:
            self.looked_for.append(names)
            return self.carried

        at = self.now if asked_at is None else asked_at
        self.ledger.settle(frozenset(lists), at, mounted)

    def used(self, resource: Resource, uuid: str = A) -> set[int]:
        in_use = self.ledger.in_use
        assert in_use is not None
        return set(capacity.numbers_in_use(in_use, resource.name, uuid))


def eight(*numbers: int, uuid: str = A) -> Held:
    return held(EIGHT.name, {uuid: numbers})


def test_what_was_given_counts_at_once() -> None:
    bench = Bench()
    claim = bench.give(EIGHT, f"{A}::1")
    assert bench.used(EIGHT) == {1}
    assert bench.changes == 0, "whoever is told of it would slow the kubelet's call down"
    claim.keep("one")
    assert bench.changes == 1
    assert bench.ledger.offered(TWENTY).devices[0].left == 24 << 30


def test_nothing_is_known_before_podresources_has_answered() -> None:
    bench = Bench(known=False)
    assert bench.ledger.in_use is None
    with pytest.raises(Refused, match="is not known yet") as caught:
        bench.give(EIGHT, f"{A}::0")
    assert caught.value.reason == "no_block"
    bench.give(PLAIN, f"{A}::0")
    bench.settle()
    assert bench.used(PLAIN) == {0}


def test_classes_do_not_sell_the_same_memory_twice() -> None:
    """Two calls at a time, before any list was sent again."""
    bench = Bench()
    bench.give(TWENTY, f"{A}::0")
    bench.give(EIGHT, f"{A}::0")
    with pytest.raises(Refused) as caught:
        bench.give(EIGHT, f"{A}::1")
    assert str(caught.value) == (
        f"asked 1 of nodeshare/gpu-8g, 4GiB are left on {A}, the rest is held"
    )
    bench.give(EIGHT, f"{B}::1")


def test_threads_that_claim_at_a_time_share_what_there_is() -> None:
    bench = Bench()
    wanted = [(EIGHT, f"{uuid}::{n}") for uuid in (A, B) for n in range(4)]
    wanted += [(TWENTY, f"{uuid}::0") for uuid in (A, B)]
    given: list[tuple[Resource, str]] = []
    start = threading.Barrier(len(wanted))

    def claim(resource: Resource, id_: str) -> None:
        start.wait(5)
        with contextlib.suppress(Refused):
            bench.give(resource, id_)
            given.append((resource, id_))

    threads = [threading.Thread(target=claim, args=one) for one in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    for uuid in (A, B):
        held_there = [one.chunk or 0 for one, id_ in given if id_.startswith(uuid)]
        assert 0 < sum(held_there) <= 32 << 30
        assert sum(held_there) + 8 * (1 << 30) > 32 << 30, "nobody was refused without need"


def test_the_units_of_an_init_container_cost_the_next_one_nothing() -> None:
    bench = Bench()
    bench.give(TWENTY, f"{A}::0")
    bench.give(EIGHT, f"{A}::0")
    bench.give(EIGHT, f"{A}::0")
    assert bench.used(EIGHT) == {0}


def test_what_came_to_nothing_is_given_back() -> None:
    bench = Bench()
    bench.give(TWENTY, f"{A}::0").drop()
    assert bench.used(TWENTY) == set()
    assert bench.changes == 1


def test_an_ended_pod_gives_back_what_nobody_lists_and_nobody_carries() -> None:
    bench = Bench()
    bench.give(EIGHT, f"{A}::0", name="one")
    bench.now += 1
    bench.settle(eight(0))
    bench.now += 1
    bench.carried = {"one"}
    bench.settle()
    assert bench.used(EIGHT) == {0}, "a kubelet that has just started lists nothing"
    bench.settle()
    assert bench.looked_for == [{"one"}], "not each time"
    for carried, left, why in ((None, {0}, "it could not be told"), (set[str](), set(), "gone")):
        bench.now += 10
        bench.carried = carried
        bench.settle()
        assert bench.used(EIGHT) == left, why


def test_while_a_pod_is_being_admitted_it_need_not_be_listed() -> None:
    bench = Bench()
    bench.give(EIGHT, f"{A}::0", name="one")
    bench.now += ADMISSION_S - 1
    bench.settle()
    assert bench.used(EIGHT) == {0}
    bench.now += 2
    bench.settle()
    assert bench.used(EIGHT) == set()


def test_an_answer_older_than_the_allocation_says_nothing_about_it() -> None:
    bench = Bench()
    bench.settle(eight(0))
    bench.give(EIGHT, f"{A}::0", name="one")
    bench.settle(eight(0), asked_at=bench.now - 1)
    bench.settle(asked_at=bench.now - 1)
    assert bench.used(EIGHT) == {0}


def test_units_without_a_record_are_those_that_podresources_lists() -> None:
    bench = Bench()
    bench.settle(eight(2, 3))
    assert bench.used(EIGHT) == {2, 3}
    bench.settle()
    assert bench.used(EIGHT) == set()


def test_a_restart_begins_with_what_was_recorded() -> None:
    bench = Bench(known=False)
    bench.ledger.restore(eight(0), "old", 3600.0)
    bench.ledger.restore(eight(1), "new", 1.0)
    bench.ledger.restore(eight(2), "running", 3600.0)
    bench.carried = {"running"}
    bench.settle()
    assert bench.used(EIGHT) == {1, 2}
    assert bench.looked_for == [{"old", "running"}]


def test_records_of_ended_pods_do_not_lend_their_memory() -> None:
    """After a restart more may count than there is; then only what is listed is free of charge."""
    bench = Bench(known=False)
    bench.ledger.restore(eight(3), "ended", 1.0)
    lists = (held(TWENTY.name, {A: [0]}), eight(0))
    bench.settle(*lists)
    with pytest.raises(Refused):
        bench.give(EIGHT, f"{A}::3")
    bench.give(EIGHT, f"{A}::0")
    bench.now += ADMISSION_S
    bench.settle(*lists)
    assert bench.used(EIGHT) == {0}


def test_what_in_use_was_stays_as_it_was() -> None:
    bench = Bench()
    before = bench.ledger.in_use
    bench.give(EIGHT, f"{A}::0")
    assert before == {}


def test_only_a_change_is_told() -> None:
    bench = Bench()
    for _ in range(3):
        bench.settle(eight(0))
    assert bench.changes == 1


def pods() -> Iterable[PodDevices]:
    yield PodDevices("a", "hub", {"main": {NAME: (f"{A}::1", f"{A}::0"), "cpu": ("1",)}})
    yield PodDevices("b", "hub", {"main": {NAME: (f"{B}::7", "odd")}, "side": {}})


def test_what_podresources_lists_of_ours() -> None:
    assert held_by(pods(), {NAME}) == {held(NAME, {A: [0, 1]}), held(NAME, {B: [7]})}
    assert listed(NAME, ["odd"]) == held(NAME, {})
