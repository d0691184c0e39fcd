# SPDX-License-Identifier: Apache-2.0
"""An agent that has less than it wants: nobody tells it anything, or it may open few files."""

from __future__ import annotations

from collections.abc import Callable

from tests.fakes.real_container import RealContainer, eventually
from tests.kernel.lxcfs_helper.agent_process import (
    AgentProcess,
    attached,
    covered,
    free_kib,
    total_kib,
)

MakeContainer = Callable[..., RealContainer]


def test_an_agent_that_is_told_nothing_looks_for_itself(
    agent: AgentProcess, make_container: MakeContainer
) -> None:
    one = make_container("one")
    agent.list_containers(one)
    agent.start(untold=True)
    eventually(covered(one), "everything attached")
    one.limit(memory=128 << 20)
    eventually(lambda: total_kib(one) == 128 * 1024, "a limit that is set anew")
    free = free_kib(one)
    one.hold(32)
    eventually(lambda: free_kib(one) < free - (16 << 10), "memory that is used")
    other = make_container("other")
    agent.list_containers(one, other)
    eventually(covered(one, other), "a new container")
    one.kill()
    agent.list_containers(other)
    eventually(lambda: agent.has_files_of() == {other.id}, "one that is gone")


def test_as_many_are_covered_as_files_may_be_open(
    agent: AgentProcess, make_container: MakeContainer
) -> None:
    one, other = make_container("one"), make_container("other")
    agent.list_containers(one, other)
    agent.start(open_files=300)
    eventually(covered(one), "everything attached")
    assert attached(other) == []
    one.kill()
    agent.list_containers(other)
    eventually(covered(other), "there is room for another")
    assert not agent.ended()
