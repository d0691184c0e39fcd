# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path

import pytest

from agents.file_lock import FileLock


def test_one_has_it_until_it_gives_it_back(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "run/lock"), FileLock(tmp_path / "run/lock")
    assert (first.owner(), first.held) == ("", False)
    assert first.take()
    assert first.take(), "it has it already"
    assert not second.take()
    assert second.owner() == str(os.getpid())
    first.release()
    first.release()
    assert (first.held, second.take(), second.held) == (False, True, True)
    assert not first.take()
    second.release()


def test_a_lock_whose_file_was_taken_away_is_lost(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.take()
    (tmp_path / "lock").unlink()
    assert second.take()
    assert not first.take()
    assert not first.held
    second.release()
    assert first.take()
    first.release()


def test_a_place_that_cannot_be_locked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        FileLock(tmp_path / "file/lock").take()
