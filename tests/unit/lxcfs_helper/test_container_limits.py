# SPDX-License-Identifier: Apache-2.0
"""The tightest limit on the way to the root, and how many CPUs that makes."""

from __future__ import annotations

import pytest

from lxcfs_helper.container_limits import Limit, Limits, tightest
from tests.fakes.recorded_hosts import facts

HOST = frozenset(range(8))


def test_the_tightest_names_its_cgroup() -> None:
    assert tightest([(5, "/a/b"), (None, "/a"), (3, "/")]) == Limit(3, "/")
    assert tightest([(3, "/a"), (3, "/")]) == Limit(3, "/a")
    assert tightest([(None, "/a")]) is None


@pytest.mark.parametrize(
    ("quota", "allowed", "capacity", "count"),
    [
        pytest.param(None, None, 8.0, 8, id="nothing is set"),
        pytest.param(1.5, None, 1.5, 2, id="a fraction is rounded up"),
        pytest.param(0.1, None, 0.1, 1, id="at least one"),
        pytest.param(None, frozenset({5, 6}), 2.0, 2, id="a set of CPUs"),
        pytest.param(4.0, frozenset({5, 6}), 2.0, 2, id="the set is smaller"),
        pytest.param(1.0, frozenset({5, 6}), 1.0, 1, id="the quota is smaller"),
        pytest.param(20.0, None, 8.0, 8, id="more than there is"),
        pytest.param(None, frozenset({70}), 8.0, 8, id="a set of CPUs that are not there"),
    ],
)
def test_cpus(
    quota: float | None, allowed: frozenset[int] | None, capacity: float, count: int
) -> None:
    limits = Limits(quota=None if quota is None else Limit(quota, "/"), allowed=allowed)
    assert limits.capacity(HOST) == capacity
    assert limits.cpu_count(HOST) == count
    assert limits.limits_cpu(HOST) == (capacity < 8)


def test_of_recorded_hosts() -> None:
    host, nested = facts("v2-nested")
    assert nested.limits.memory is not None
    assert nested.limits.memory.path.endswith(".slice"), "the pod's, not the container's"
    assert nested.limits.memory.value == 1792 << 20
    assert nested.limits.cpu_count(host.cpus) == 2
    host, unlimited = facts("v2-unlimited")
    assert not unlimited.limits.limits_memory(host.memory_bytes)
    assert not unlimited.limits.limits_cpu(host.cpus)
    host, v1 = facts("v1-hybrid")
    assert v1.limits.limits_cpu(host.cpus)
    assert v1.limits.cpu_count(host.cpus) == 1
