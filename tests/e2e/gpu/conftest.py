# SPDX-License-Identifier: Apache-2.0
"""A node with GPUs: simulated, or told by the C library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.gpu_node import Node, gpu_node
from tests.fakes.nvml.shared_object import build


@pytest.fixture
def node() -> Iterator[Node]:
    with gpu_node() as made:
        yield made


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def node_with_mig(library: Path) -> Iterator[Node]:
    """Two V100 and one A100 in four slices."""
    with gpu_node(library=library) as node:
        yield node
