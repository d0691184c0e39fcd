# SPDX-License-Identifier: Apache-2.0
"""What calls are answered, to the byte."""

from __future__ import annotations

import struct
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxcfs_helper.affinity import answers
from lxcfs_helper.affinity.answers import Masks, SystemInfo, chosen, first_cpu
from lxcfs_helper.affinity.syscalls import ABIS, Call, call_of

WIDE, NARROW = ABIS[0xC000003E], ABIS[0x40000003]
MASKS = Masks(cpu_ids=100, size=16)

SETS = st.integers(1, 2**300)
COUNTS = st.integers(1, 64)
STARTS = st.integers(0, 300)


@given(SETS, COUNTS, STARTS)
def test_so_many_are_chosen_of_those_that_there_are(real: int, count: int, start: int) -> None:
    found = chosen(real, count, start)
    assert found & ~real == 0
    assert found.bit_count() == min(count, real.bit_count())


@given(SETS, COUNTS, STARTS)
def test_more_and_fewer_are_nested(real: int, count: int, start: int) -> None:
    smaller, larger = chosen(real, count, start), chosen(real, count + 1, start)
    assert smaller & ~larger == 0


@pytest.mark.parametrize(
    ("real", "count", "start", "found"),
    [
        (0b1111, 2, 1, 0b0110),
        (0b1111, 2, 3, 0b1001),
        (0b1010_1010, 3, 4, 0b1010_0010),
        (0b1010, 4, 3, 0b1010),
        (0b1, 1, 200, 0b1),
    ],
    ids=["neighbours", "around the end", "with gaps", "all", "start beyond"],
)
def test_they_are_neighbours_from_a_start_on(real: int, count: int, start: int, found: int) -> None:
    assert chosen(real, count, start) == found


@given(st.text(), SETS)
def test_a_container_begins_at_a_cpu_that_there_is_and_always_at_the_same(
    container_id: str, real: int
) -> None:
    start = first_cpu(container_id, real)
    assert real >> start & 1
    assert first_cpu(container_id, real) == start


@given(st.text(), SETS, STARTS)
def test_a_container_moves_only_when_its_own_cpu_is_taken_away(
    container_id: str, real: int, taken: int
) -> None:
    start = first_cpu(container_id, real)
    left = real & ~(1 << taken)
    if left and taken != start:
        assert first_cpu(container_id, left) == start


def test_containers_are_spread_over_all_cpus() -> None:
    starts = Counter(first_cpu(f"container-{number}", (1 << 16) - 1) for number in range(1600))
    assert set(starts) == set(range(16))
    assert max(starts.values()) < 2 * 100


@pytest.mark.parametrize(
    ("length", "size"),
    [
        (0, None),
        (8, None),
        (12, None),
        (16, 16),
        (20, None),
        (24, 16),
        (8192, 16),
        (1 << 29, None),
        (1 << 32, None),
        ((1 << 32) + 16, 16),
    ],
    ids=str,
)
def test_lengths_are_those_of_the_kernel(length: int, size: int | None) -> None:
    found = answers.affinity(WIDE, length, 0x1000, real=0xFF, wanted=0x3, masks=MASKS)
    assert (None if found is None else found.value) == size
    if found is not None:
        assert (found.address, found.data) == (0x1000, b"\x03" + bytes(15))


def test_32_bit_callers_have_shorter_longs() -> None:
    ask = {"real": 0xFF, "wanted": 0x3, "masks": Masks(cpu_ids=32, size=8)}
    assert answers.affinity(WIDE, 4, 0, **ask) is None  # type: ignore[arg-type]  # all of it is
    found = answers.affinity(NARROW, 4, 0, **ask)  # type: ignore[arg-type]  # as above
    assert found is not None
    assert (found.value, found.data) == (4, b"\x03\0\0\0")


def test_who_may_run_on_no_more_is_answered_by_the_kernel() -> None:
    assert answers.affinity(WIDE, 128, 0, real=0x3, wanted=0x3, masks=MASKS) is None


INFO = SystemInfo(100, (1.5, 0.25, 0.0), 300 << 20, 200 << 20, 7, 0, 64 << 20, 32 << 20, 12)


def test_64_bit_layout() -> None:
    found = answers.system_info(WIDE, INFO, 0x2000)
    assert (found.value, found.address, len(found.data)) == (0, 0x2000, 112)
    assert answers.read_system_info(found.data) == INFO
    values = struct.unpack_from("<q3Q6QH6x2QI", found.data)
    assert values[:5] == (100, 3 << 15, 1 << 14, 0, 300 << 20)
    assert values[-1] == 1


def test_32_bit_layout() -> None:
    found = answers.system_info(NARROW, INFO, 0)
    assert len(found.data) == 64
    values = struct.unpack_from("<i3I6IHH2II", found.data)
    assert values == (
        *(100, 3 << 15, 1 << 14, 0),
        *(300 << 20, 200 << 20, 7, 0, 64 << 20, 32 << 20),
        *(12, 0, 0, 0, 1),
    )


def test_what_does_not_fit_into_32_bits_is_told_in_pages() -> None:
    large = SystemInfo(1, (0.0, 0.0, 0.0), 6 << 30, 5 << 30, 0, 0, 0, 0, 70_000)
    values = struct.unpack_from("<i3I6IHH2II", answers.system_info(NARROW, large, 0).data)
    assert values[4:6] == (6 << 18, 5 << 18)
    assert (values[10], values[-1]) == (0xFFFF, 4096)


@given(
    st.integers(0, 2**40),
    st.tuples(*[st.floats(0, 1e6)] * 3),
    st.lists(st.integers(0, 2**62), min_size=6, max_size=6),
    st.integers(0, 10**6),
)
def test_any_value_can_be_told_to_anybody(
    uptime: int, loads: tuple[float, float, float], sizes: list[int], threads: int
) -> None:
    total, free, shared, buffers, swap, free_swap = sizes
    info = SystemInfo(uptime, loads, total, free, shared, buffers, swap, free_swap, threads)
    for abi in ABIS.values():
        assert len(answers.system_info(abi, info, 0).data) in (64, 112)


@pytest.mark.parametrize(
    ("arch", "number", "call"),
    [
        (0xC000003E, 204, Call.SCHED_GETAFFINITY),
        (0x40000003, 242, Call.SCHED_GETAFFINITY),
        (0xC00000B7, 123, Call.SCHED_GETAFFINITY),
        (0xC000003E, 99, Call.SYSINFO),
        (0x40000003, 11, Call.EXECVE),
        (0xC00000B7, 281, Call.EXECVEAT),
        (0xC000003E, 204 | 1 << 30, Call.OTHER),
        (0xC000003E, 203, Call.OTHER),
        (0x1234, 204, Call.OTHER),
    ],
    ids=["x86-64", "i386", "aarch64", "sysinfo", "execve", "execveat", "x32", "setter", "unknown"],
)
def test_calls_are_known_by_architecture_and_number(arch: int, number: int, call: Call) -> None:
    assert call_of(arch, number) is call
