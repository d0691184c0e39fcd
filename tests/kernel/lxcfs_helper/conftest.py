# SPDX-License-Identifier: Apache-2.0
"""Containers with limits, and the process that enters them; all gone at the end."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agents.hostfs import HostFs
from agents.namespaces import NamespaceHelper
from lxcfs_helper.eject import eject
from tests.fakes.real_container import LIMITS_AVAILABLE, ROOTS, RealContainer, remove_cgroup
from tests.kernel.lxcfs_helper.agent_process import AgentProcess


@pytest.fixture
def make_container() -> Iterator[Callable[..., RealContainer]]:
    """Start containers with limits; all are gone at the end."""
    if not LIMITS_AVAILABLE:
        pytest.skip("no memory and cpu controllers here")
    parent = f"nodeshare-test-{secrets.token_hex(6)}"
    made: list[RealContainer] = []

    def make(name: str = "one", *, memory: int = 256 << 20, cpus: float = 1.0) -> RealContainer:
        container = RealContainer(name, parent)
        made.append(container)
        container.create()
        container.limit(memory=memory, cpus=cpus)
        container.start()
        return container

    try:
        yield make
    finally:
        for container in made:
            container.remove()
        for root in ROOTS:
            assert remove_cgroup(root / parent)


@pytest.fixture
def namespaces() -> Iterator[NamespaceHelper]:
    helper = NamespaceHelper.start()
    try:
        yield helper
    finally:
        helper.close()


@pytest.fixture
def agent(tmp_path: Path, namespaces: NamespaceHelper) -> Iterator[AgentProcess]:
    """Not started yet; dead at the end, and nothing of it is left anywhere."""
    process = AgentProcess(tmp_path)
    try:
        yield process
    finally:
        process.kill()
        done = eject(HostFs(), namespaces, process.files)
        assert not done.problems
