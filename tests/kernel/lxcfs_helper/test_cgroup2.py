# SPDX-License-Identifier: Apache-2.0
"""Views on pure cgroup v2: limits wherever up the tree they are set, and changed in place."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from agents.hostfs import CGROUP
from tests.fakes.real_container import V2, RealContainer, eventually
from tests.kernel.lxcfs_helper.agent_process import (
    AgentProcess,
    covered,
    free_kib,
    processors,
    total_kib,
)

MIB = 1 << 20
MakeContainer = Callable[..., RealContainer]
pytestmark = [
    pytest.mark.skipif(not V2, reason="the controllers are those of cgroup v1"),
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one CPU cannot be limited to one"),
]


def test_limits_wherever_they_are_and_use(
    agent: AgentProcess, make_container: MakeContainer
) -> None:
    one, other = make_container("one", memory=256 * MIB), make_container("other")
    agent.list_containers(one, other)
    agent.start()
    eventually(covered(one, other), "everything attached")
    shows_its_own_use(one, other)
    follows_limits(one)


def follows_limits(one: RealContainer) -> None:
    own, parent = CGROUP / one.parent / one.id, CGROUP / one.parent
    assert total_kib(one) == 256 * 1024
    (parent / "memory.max").write_text(str(128 * MIB))
    eventually(lambda: total_kib(one) == 128 * 1024, "the limit of the pod", timeout_s=5)
    (parent / "memory.max").write_text("max")
    one.limit(memory=192 * MIB)
    eventually(lambda: total_kib(one) == 192 * 1024, "resized in place", timeout_s=5)

    (parent / "cpu.max").write_text("50000 100000")
    one.limit(cpus=0)
    eventually(lambda: has_processors(one, 1), "the quota of the pod", timeout_s=5)
    (parent / "cpu.max").write_text("max 100000")
    eventually(lambda: has_processors(one, os.cpu_count() or 1), "no quota", timeout_s=5)
    (own / "cpuset.cpus").write_text("1")
    eventually(lambda: has_processors(one, 1), "one CPU is allowed", timeout_s=5)
    eventually(lambda: one.read("/sys/devices/system/cpu/online") == "0\n", "numbered anew")


def shows_its_own_use(one: RealContainer, other: RealContainer) -> None:
    free = free_kib(one), free_kib(other)
    busy = one.hold(48)
    eventually(lambda: free[0] - free_kib(one) > 40 * 1024, "less is free")
    eventually(lambda: kib(one, "AnonPages") > 40 * 1024, "and it is known for what")
    assert abs(free[1] - free_kib(other)) < 16 * 1024, "a neighbour's use is not shown"
    busy.kill()
    ticks = user_ticks(one), user_ticks(other)
    spinning = one.spawn("sh -c 'while :; do :; done'")
    eventually(lambda: user_ticks(one) - ticks[0] > 50, "CPU time counts")
    spinning.kill()
    assert user_ticks(other) - ticks[1] < 50, "a neighbour's time is not shown"


def has_processors(one: RealContainer, count: int) -> bool:
    return processors(count)(one.read("/proc/cpuinfo")) is None


def kib(one: RealContainer, field: str) -> int:
    lines = one.read("/proc/meminfo").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def user_ticks(one: RealContainer) -> int:
    return int(one.read("/proc/stat").split()[1])
