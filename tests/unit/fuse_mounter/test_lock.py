# SPDX-License-Identifier: Apache-2.0
"""One agent for one root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agents.errors import AgentError
from fuse_mounter.lock import exclusive


def test_the_second_is_told_who_has_it_and_gets_it_when_that_one_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lock"
    with (
        exclusive(path),
        pytest.raises(AgentError, match=rf"pid {os.getpid()} looks after.*stop that agent"),
        exclusive(path),
    ):
        raise AssertionError("held twice")
    with exclusive(path):
        assert path.read_text() == str(os.getpid())
