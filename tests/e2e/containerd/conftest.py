# SPDX-License-Identifier: Apache-2.0
"""A node as it is in a cluster: containerd, runc, a kubelet's admission, and the three agents."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.containerd.node import Node


@pytest.fixture
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """Its parameter, if it has one: whether the containers of a pod share a pid namespace."""
    # Short: a socket's path has at most 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="ns-c"))
    shared_pids = bool(getattr(request, "param", False))
    made = Node(directory, f"nodeshare-test-{secrets.token_hex(4)}", shared_pids=shared_pids)
    try:
        made.start()
        yield made
    finally:
        made.close()
        shutil.rmtree(directory, ignore_errors=True)
