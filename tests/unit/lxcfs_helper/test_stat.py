# SPDX-License-Identifier: Apache-2.0
"""CPU time as it is accounted and shown: it adds up to the quota, and never goes back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.cgroup_formats import CpuTimes
from lxcfs_helper.container_limits import Limit, Limits
from lxcfs_helper.facts import CpuAccount
from lxcfs_helper.views import stat
from tests.fakes.recorded_hosts import facts

USER, SYSTEM, IDLE, STEAL = 1, 3, 4, 8


def rows(account: CpuAccount, cpus: float) -> dict[str, list[int]]:
    """The CPU lines as a program reads them."""
    host, container = facts("v2-nested")
    limits = Limits(quota=Limit(cpus, "/"))
    text = stat.render(host, replace(container, account=account, limits=limits)).decode()
    lines = [line.split() for line in text.splitlines() if line.startswith("cpu")]
    return {line[0]: [0, *map(int, line[1:])] for line in lines}


def test_a_container_that_was_idle_half_the_time() -> None:
    account = stat.begin(CpuTimes(40.0, 10.0, 0.0), capacity=1.0, count=1, age_s=100.0, now=500.0)
    shown = rows(account, 1.0)
    assert shown["cpu"][1:] == [4000, 0, 1000, 5000, 0, 0, 0, 0, 0, 0]
    assert shown["cpu0"] == shown["cpu"]
    account = stat.advance(account, CpuTimes(42.0, 10.0, 0.0), capacity=1.0, count=1, now=510.0)
    assert rows(account, 1.0)["cpu"][1:5] == [4200, 0, 1000, 5800]


def test_a_hundred_percent_is_the_quota() -> None:
    account = stat.begin(CpuTimes(0.0, 0.0, 0.0), capacity=1.5, count=2, age_s=0.0, now=0.0)
    account = stat.advance(account, CpuTimes(15.0, 0.0, 20.0), capacity=1.5, count=2, now=10.0)
    shown = rows(account, 1.5)
    assert (shown["cpu"][USER], shown["cpu"][IDLE], shown["cpu"][STEAL]) == (1500, 0, 0)
    assert shown["cpu0"][USER] == shown["cpu1"][USER] == 750


def test_a_container_that_was_held_up_though_it_used_little() -> None:
    account = stat.begin(CpuTimes(0.0, 0.0, 0.0), capacity=1.0, count=1, age_s=0.0, now=0.0)
    account = stat.advance(account, CpuTimes(6.0, 1.0, 2.0), capacity=1.0, count=1, now=10.0)
    shown = rows(account, 1.0)["cpu"]
    assert (shown[USER], shown[SYSTEM], shown[IDLE], shown[STEAL]) == (600, 100, 100, 200)


def test_the_rest_of_the_file_tells_nothing_of_the_host_but_when_it_booted() -> None:
    host, container = facts("v2-nested")
    text = stat.render(host, container).decode()
    rest = [line.rstrip() for line in text.splitlines() if not line.startswith("cpu")]
    assert rest == [
        "intr 0",
        "ctxt 0",
        "btime 1700000000",
        "processes 0",
        "procs_running 1",
        "procs_blocked 0",
        "softirq 0 0 0 0 0 0 0 0 0 0 0",
    ]


moments = st.lists(
    st.tuples(
        st.floats(-1, 50),  # user, system, throttled: steps, which a reading may even undo
        st.floats(-1, 50),
        st.floats(-1, 50),
        st.floats(0, 100),  # time that passed
        st.sampled_from([0.5, 1.0, 1.5, 4.0]),
        st.booleans(),  # a new agent goes on from the file
    ),
    min_size=1,
    max_size=12,
)


@given(moments)
def test_it_never_goes_back(
    steps: list[tuple[float, float, float, float, float, bool]],
) -> None:
    now, times = 100.0, CpuTimes(5.0, 2.0, 0.5)
    account = stat.begin(times, capacity=1.0, count=1, age_s=50.0, now=now)
    host, container = facts("v2-nested")
    before = rows(account, 1.0)
    for user, system, throttled, passed, capacity, restarted in steps:
        now += passed
        times = CpuTimes(
            times.user_s + user, times.system_s + system, times.throttled_s + throttled
        )
        count = max(1, -int(-capacity // 1))
        if restarted:
            limits = Limits(quota=Limit(capacity, "/"))
            text = stat.render(host, replace(container, account=account, limits=limits))
            fresh = stat.begin(times, capacity=capacity, count=count, age_s=now - 50.0, now=now)
            account = stat.resume(fresh, text, host.ticks_per_second)
        else:
            account = stat.advance(account, times, capacity=capacity, count=count, now=now)
        shown = rows(account, capacity)
        assert len(shown) == count + 1
        for name in shown.keys() & before.keys():
            assert all(n >= o for n, o in zip(shown[name], before[name], strict=True))
        before = shown


@pytest.mark.parametrize(
    "text", [b"", b"cpu", b"cpu 1 2\n", b"cpu  a b c d e f g h i j\n", b"\xff"]
)
def test_a_file_that_is_none_is_ignored(text: bytes) -> None:
    account = stat.begin(CpuTimes(1.0, 1.0, 0.0), capacity=1.0, count=1, age_s=5.0, now=5.0)
    assert stat.resume(account, text, 100) == account


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_the_length_does_not_change_with_time(earlier: float, later: float) -> None:
    host, container = facts("v2-nested")
    lengths = set()
    for age in (earlier, later):
        account = stat.begin(CpuTimes(age, 0.0, 0.0), capacity=2.0, count=2, age_s=age, now=age)
        lengths.add(len(stat.render(host, replace(container, account=account))))
    assert len(lengths) == 1


@given(
    st.floats(0, 1e5),
    st.floats(0, 1e5),
    st.floats(0, 1e5),
    st.floats(0.01, 64),
    st.floats(1, 1e5),
)
def test_everything_adds_up(
    user: float, system: float, throttled: float, capacity: float, age_s: float
) -> None:
    """All columns are the CPU seconds that there were, or were used, and the lines are the sum."""
    count = max(1, -int(-capacity // 1))
    account = stat.begin(
        CpuTimes(user, system, throttled), capacity=capacity, count=count, age_s=age_s, now=age_s
    )
    shown = rows(account, capacity) if capacity <= 8 else rows(account, 8.0)
    whole = sum(shown["cpu"])
    expected = 100 * max(capacity * age_s, user + system)
    assert abs(whole - expected) <= 4 + expected * 1e-9
    if capacity <= 8:
        parts = sum(sum(line) for name, line in shown.items() if name != "cpu")
        assert whole - 4 * count - 4 <= parts <= whole + 4
    assert shown["cpu"][STEAL] <= throttled * 100 + 1
