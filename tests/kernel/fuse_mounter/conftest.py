# SPDX-License-Identifier: Apache-2.0
"""A node for every test, and nothing of it left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.hostfs import HostFs
from tests.fakes.mount_node import Node


@pytest.fixture(scope="session", autouse=True)
def fuse_device() -> None:
    """These tests are about FUSE; without the device there is nothing to see."""
    if not HostFs().fuse_device.exists():
        pytest.skip("no FUSE device here: modprobe fuse")


@pytest.fixture
def replaced_layers(beneath: bool) -> int:
    """How many layers lie on the anchor where one was replaced: older kernels cover the old one."""
    return 1 if beneath else 2


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node of this test, taken away at its end."""
    tmp_path.chmod(0o755)
    one = Node(tmp_path)
    try:
        yield one
    finally:
        one.end()
