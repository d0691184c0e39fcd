# SPDX-License-Identifier: Apache-2.0
"""The socket for OCI runtimes as runc uses it: a profile with `listenerPath`, containers and what
is executed in them.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.real_container import LIMITS_AVAILABLE
from tests.fakes.runc_container import RuncContainer
from tests.fakes.seccomp_node import AGENT, KERNEL, Node, eventually

CALL = ("python3", "-c", "import os; print(os.sched_get_priority_max(1))")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    try:
        yield node
    finally:
        node.end()


@pytest.fixture
def container(node: Node) -> Iterator[RuncContainer]:
    """Made, and not started."""
    if not LIMITS_AVAILABLE:
        pytest.skip("no memory and cpu controllers here")
    notified = {"names": ["sched_get_priority_max"], "action": "SCMP_ACT_NOTIFY"}
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": str(node.seccomp),
        "listenerMetadata": "profile-7",
        "syscalls": [notified],
    }
    made = RuncContainer("one", f"nodeshare-test-{secrets.token_hex(6)}", seccomp=profile)
    try:
        made.create()
        yield made
    finally:
        made.remove()


def test_a_container_and_what_is_executed_in_it_come_with_a_descriptor_each(
    node: Node, container: RuncContainer
) -> None:
    node.start_holder("--listen")
    container.start()
    assert container.run(*CALL) == f"{KERNEL}\n"
    agent = node.agent()
    first = agent.arrival()
    assert (first["container_id"], first["metadata"]) == (container.id, "profile-7")
    assert first["pid"] == first["container_pid"] == container.pid
    assert not first["fresh"]
    assert container.run(*CALL) == f"{AGENT}\n"
    second = agent.arrival()
    assert second["container_id"] == container.id
    assert second["container_pid"] == container.pid != second["pid"]
    eventually(lambda: node.kept() == 1, "that of the executed process is closed")
    container.kill()
    eventually(lambda: node.kept() == 0, "that of the container is closed")


def test_without_a_holder_nothing_starts_until_the_next_one_is_there(
    node: Node, container: RuncContainer
) -> None:
    """What runs goes on: the agent answers, and hands over what it has."""
    node.start_holder("--listen")
    container.start()
    agent = node.agent()
    agent.arrival()
    node.kill_holder()
    assert "connect" in container.run(*CALL)
    node.start_holder()
    eventually(lambda: container.run(*CALL) == f"{AGENT}\n", "it can be executed in again")
    assert node.kept() >= 1
    agent.end()
    assert container.run(*CALL) == f"{KERNEL}\n"
