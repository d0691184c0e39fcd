# SPDX-License-Identifier: Apache-2.0
"""When what is offered changes: at once, and then at most once a second."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing

from gpu_plugin import offers, placement
from gpu_plugin.offers import Offers
from gpu_plugin.resources import Plan, plan, resources_of
from tests.fakes.gpus import gpu, machine, rule

A = gpu(0).uuid
RULE = rule("nodeshare/gpu", blocks={"8g": "8GiB", "20g": "20GiB"})
EIGHT, TWENTY = "nodeshare/gpu-8g", "nodeshare/gpu-20g"


def decided() -> Plan:
    return plan([RULE], machine(gpu(0)))


def give(made: Offers, name: str, number: int) -> None:
    resource = made.published[name].value
    claim = made.ledger.claim(resource, placement.check(resource, [f"{A}::{number}"]))
    claim.keep(f"{name} {number}")


def shown(made: Offers, name: str) -> int:
    (served,) = made.published[name].value.devices
    return served.units - len(served.withheld)


@asynccontextmanager
async def running() -> AsyncIterator[Offers]:
    made = Offers(resources_of(RULE))
    made.ledger.settle(frozenset(), 0.0, lambda _: set())
    made.set(decided().resources)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run, lambda: None)
        await trio.testing.wait_all_tasks_blocked()
        yield made
        nursery.cancel_scope.cancel()


async def settled() -> None:
    """What other threads asked for has been done."""
    await trio.testing.wait_all_tasks_blocked(0.05)


async def test_another_class_changes_at_once_and_then_once_a_second(
    autojump_clock: trio.testing.MockClock,
) -> None:
    autojump_clock.autojump_threshold = float("inf")
    async with running() as made:
        assert (shown(made, EIGHT), shown(made, TWENTY)) == (4, 1)
        give(made, EIGHT, 0)
        give(made, EIGHT, 1)
        await settled()
        assert shown(made, TWENTY) == 0
        made.ledger.settle(frozenset(), 1e9, lambda _: set())  # the pods have ended
        made.set(decided().resources)
        autojump_clock.jump(offers.PAUSE_S / 2)
        await settled()
        assert shown(made, TWENTY) == 0
        autojump_clock.jump(offers.PAUSE_S / 2)
        await settled()
        assert shown(made, TWENTY) == 1


async def test_a_device_that_is_lost_is_not_waited_for() -> None:
    async with running() as made:
        give(made, EIGHT, 0)
        give(made, EIGHT, 1)
        await settled()
        made.set(())
        made.set(plan([RULE], machine(gpu(1))).resources)
        assert made.published[EIGHT].value.devices[0].device.uuid == gpu(1).uuid


async def test_a_change_is_new_for_as_long_as_the_scheduler_may_not_know_it() -> None:
    async with running() as made:
        assert made.is_new(EIGHT)
        made._changed_at[EIGHT] -= offers.NODE_STATUS_S
        assert not made.is_new(EIGHT)
        give(made, EIGHT, 0)
        await settled()
        assert not made.is_new(EIGHT), "as many as before"
        give(made, TWENTY, 0)
        await settled()
        assert made.is_new(EIGHT)


async def test_a_claim_in_another_thread_is_noticed() -> None:
    async with running() as made:
        thread = threading.Thread(target=give, args=(made, TWENTY, 0))
        thread.start()
        thread.join(5)
        await settled()
        assert shown(made, EIGHT) == 1


async def test_free_units_by_device() -> None:
    async with running() as made:
        give(made, EIGHT, 0)
        await settled()
        assert made.free() == {EIGHT: {A: 3}, TWENTY: {A: 1}}


def test_nothing_is_offered_before_the_first_plan() -> None:
    made = Offers(resources_of(RULE))
    assert made.resources == ()
    made.refresh_soon()
    assert not made.is_new(EIGHT)
