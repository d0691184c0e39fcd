# SPDX-License-Identifier: Apache-2.0
"""The memory that an agent and the holder share, from both sides."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import closing

import pytest

from agents.seccomp_notify import Notification
from agents.seccomp_slots import SharedSlots, Slots


@pytest.fixture
def slots() -> Iterator[Slots]:
    with closing(Slots(count=3)) as slots:
        yield slots


@pytest.fixture
def shared(slots: Slots) -> Iterator[SharedSlots]:
    with closing(SharedSlots(os.dup(slots.descriptor))) as shared:
        yield shared


def received(slots: Slots, token: int, id_: int) -> int:
    """As if the kernel had written there."""
    slot = slots.acquire(token)
    assert slot is not None
    written = struct.pack("=QIIiIQ6Q", id_, 4711, 0, 204, 0xC000003E, 0, 1, 2, 3, 4, 5, 6)
    ctypes.memmove(slots.address(slot), written, len(written))
    return slot


def test_what_is_received_is_seen_by_both_until_it_is_released(
    slots: Slots, shared: SharedSlots
) -> None:
    slot = received(slots, token=5, id_=77)
    assert slots.notification(slot) == Notification(77, 4711, 204, 0xC000003E, (1, 2, 3, 4, 5, 6))
    assert shared.received() == [(slot, 5, 77)]
    slots.release(slot)
    assert shared.received() == []
    assert ctypes.string_at(slots.address(slot), 80) == bytes(80), "the kernel wants it zeroed"


def test_an_acquired_slot_is_no_call_before_the_kernel_wrote(
    slots: Slots, shared: SharedSlots
) -> None:
    assert slots.acquire(5) is not None
    assert shared.received() == []


def test_there_are_so_many(slots: Slots) -> None:
    taken = [slots.acquire(1) for _ in range(3)]
    assert None not in taken
    assert len({slots.address(slot) for slot in taken if slot is not None}) == 3
    assert slots.acquire(1) is None
    assert taken[1] is not None
    slots.release(taken[1])
    assert slots.free == 1
    assert slots.acquire(1) == taken[1]


def test_nothing_is_written_for_a_call_that_the_holder_has_claimed(
    slots: Slots, shared: SharedSlots
) -> None:
    slot = received(slots, token=5, id_=77)
    assert slots.begin_write(slot)
    assert shared.is_writing(slot)
    slots.end_write(slot)
    assert not shared.is_writing(slot)
    shared.claim(slot)
    assert not slots.begin_write(slot)
    slots.release(slot)
    assert not shared.is_writing(slot)
    again = received(slots, token=5, id_=78)
    assert again == slot
    assert slots.begin_write(again), "the claim was for the call before"


def test_the_agent_moves_and_is_revoked(slots: Slots, shared: SharedSlots) -> None:
    before = shared.beat
    slots.beat()
    assert shared.beat == before + 1
    assert not slots.revoked
    shared.revoke(True)
    assert slots.revoked
    shared.revoke(False)
    assert not slots.revoked


def test_the_same_memory_is_known_again(slots: Slots, shared: SharedSlots) -> None:
    with closing(SharedSlots(os.dup(slots.descriptor))) as again, closing(Slots(1)) as other:
        assert again.identity == shared.identity
        with closing(SharedSlots(os.dup(other.descriptor))) as others:
            assert others.identity != shared.identity


def test_a_child_does_not_inherit_it(slots: Slots) -> None:
    assert fcntl.fcntl(slots.descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def memory(size: int, seals: int, content: bytes = b"") -> int:
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    os.pwrite(descriptor, content, 0)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


@pytest.mark.parametrize(
    ("size", "seals", "content", "match"),
    [
        pytest.param(4096, SEALS, b"nodesec9", "another layout", id="layout"),
        pytest.param(4096, fcntl.F_SEAL_GROW, b"nodesec1", "no memory", id="it could shrink"),
        pytest.param(64, SEALS, b"nodesec1", "no memory", id="too short"),
        pytest.param(1 << 24, SEALS, b"nodesec1", "no memory", id="too long"),
    ],
)
def test_other_memory_is_refused_and_closed(
    size: int, seals: int, content: bytes, match: str
) -> None:
    descriptor = memory(size, seals, content)
    with pytest.raises(ValueError, match=match):
        SharedSlots(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_other_files_are_refused() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    with pytest.raises(ValueError, match="no memory"):
        SharedSlots(reading)
