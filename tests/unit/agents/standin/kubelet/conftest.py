# SPDX-License-Identifier: Apache-2.0
"""A test bench for the embedded kubelet, on a temporary directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fakes.kubelet_bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    # Short, because a socket's path holds 107 bytes.
    with ExitStack() as stack:
        yield Bench(tmp_path / "k", stack)
