# SPDX-License-Identifier: Apache-2.0
"""When the holder takes an agent for one that hangs, and which of its calls it answers then."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest

from agents.holder_agent import LONGEST_S, STUCK_S, AnsweringAgent, Message, Overdue
from agents.seccomp_slots import SharedSlots, Slots

LOOK_S = 0.1


class FakePeer:
    """It is only there."""

    pid = 7

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> bool:
        return True

    def hang_up(self) -> None:
        pass


@pytest.fixture
def slots() -> Iterator[Slots]:
    with closing(Slots(count=4)) as slots:
        yield slots


@pytest.fixture
def agent(slots: Slots) -> Iterator[AnsweringAgent]:
    with closing(SharedSlots(os.dup(slots.descriptor))) as shared:
        agent = AnsweringAgent(shared, -1)
        agent.attach(FakePeer(), 0)
        yield agent


def received(slots: Slots, id_: int) -> int:
    slot = slots.acquire(5)
    assert slot is not None
    ctypes.c_uint64.from_address(slots.address(slot)).value = id_
    return slot


def test_who_moves_does_not_hang_however_long_calls_wait(
    slots: Slots, agent: AnsweringAgent
) -> None:
    for look in range(100):
        slots.beat()
        assert not agent.hangs(calls_wait=True, now=look * LOOK_S)


def test_who_does_not_move_hangs_only_when_calls_wait(agent: AnsweringAgent) -> None:
    for look in range(100):
        assert not agent.hangs(calls_wait=False, now=look * LOOK_S)
    assert not agent.hangs(calls_wait=True, now=10)
    assert not agent.hangs(calls_wait=True, now=10 + STUCK_S)
    assert agent.hangs(calls_wait=True, now=10.01 + STUCK_S)


def test_a_call_that_it_has_received_waits_too(slots: Slots, agent: AnsweringAgent) -> None:
    received(slots, 77)
    for now in (0.0, STUCK_S + 0.1):
        agent.overdue(now)
        hangs = agent.hangs(calls_wait=False, now=now)
    assert hangs


def test_moving_once_is_enough(slots: Slots, agent: AnsweringAgent) -> None:
    assert not agent.hangs(calls_wait=True, now=0)
    slots.beat()
    assert not agent.hangs(calls_wait=True, now=STUCK_S + 0.1)


def test_who_does_not_take_what_it_is_sent_hangs(slots: Slots, agent: AnsweringAgent) -> None:
    agent.sent |= {1: 5.0, 2: 6.0}
    slots.beat()
    assert not agent.hangs(calls_wait=False, now=5 + STUCK_S)
    slots.beat()
    assert agent.hangs(calls_wait=False, now=5.1 + STUCK_S)
    del agent.sent[1]
    assert not agent.hangs(calls_wait=False, now=5.1 + STUCK_S)


def test_who_was_replaced_and_stays_hangs(slots: Slots, agent: AnsweringAgent) -> None:
    agent.replaced_at = 5.0
    slots.beat()
    assert not agent.hangs(calls_wait=False, now=5 + STUCK_S)
    assert agent.hangs(calls_wait=False, now=5.1 + STUCK_S)
    agent.attach(FakePeer(), 0)
    assert not agent.hangs(calls_wait=False, now=5.1 + STUCK_S)


def test_a_call_is_claimed_first_and_answered_at_the_next_look(
    slots: Slots, agent: AnsweringAgent
) -> None:
    slot = received(slots, 77)
    agent.detach()
    assert agent.overdue(1.0) == []
    assert not slots.begin_write(slot)
    slots.end_write(slot)
    assert agent.overdue(1.5) == [Overdue(5, 77, writing=False, still_s=0.5)]


def test_while_it_is_well_a_call_may_wait_for_long_but_not_for_ever(
    slots: Slots, agent: AnsweringAgent
) -> None:
    slot = received(slots, 77)
    for now in (0.0, 1.0, LONGEST_S - 0.1):
        assert agent.overdue(now) == []
        assert slots.begin_write(slot)
        slots.end_write(slot)
    assert agent.overdue(LONGEST_S) == []
    assert [call.id for call in agent.overdue(LONGEST_S + LOOK_S)] == [77]


def test_what_it_is_about_to_write_is_not_answered(slots: Slots, agent: AnsweringAgent) -> None:
    slot = received(slots, 77)
    assert slots.begin_write(slot)
    agent.detach()
    agent.overdue(1.0)
    assert agent.overdue(2.0) == [Overdue(5, 77, writing=True, still_s=1.0)]
    slots.end_write(slot)
    assert [call.writing for call in agent.overdue(3.0)] == [False]


def test_memory_that_hangs_is_not_the_agents_fault(slots: Slots, agent: AnsweringAgent) -> None:
    """Another thread of it goes on."""
    slot = received(slots, 77)
    assert slots.begin_write(slot)
    agent.detach()
    agent.overdue(1.0)
    slots.beat()
    assert agent.overdue(100.0) == [Overdue(5, 77, writing=True, still_s=0.0)]


def test_the_answer_to_a_claimed_call_is_ours_also_when_its_slot_is_released(
    slots: Slots, agent: AnsweringAgent
) -> None:
    slot = received(slots, 77)
    agent.detach()
    agent.overdue(1.0)
    assert not slots.begin_write(slot)
    slots.release(slot)
    assert received(slots, 78) == slot
    assert agent.overdue(2.0) == [Overdue(5, 77, writing=False, still_s=0.0)]
    assert [call.id for call in agent.overdue(3.0)] == [78]


def test_the_next_call_in_a_slot_is_another_one(slots: Slots, agent: AnsweringAgent) -> None:
    for number in range(30):
        slot = received(slots, 77 + number)
        assert agent.overdue(number * 1.0) == []
        slots.release(slot)
    assert agent.overdue(31.0) == []


def test_without_a_connection_it_may_not_receive(slots: Slots, agent: AnsweringAgent) -> None:
    agent.detach()
    assert slots.revoked
    agent.attach(FakePeer(), 0)
    assert not slots.revoked
