# SPDX-License-Identifier: Apache-2.0
"""Short directories: a unix socket's path has at most 107 bytes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def short_path() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="ns"))
    yield directory
    shutil.rmtree(directory)
