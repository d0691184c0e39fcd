# SPDX-License-Identifier: Apache-2.0
"""Directories that cannot be watched are polled, and keep no other from being watched."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import NoReturn

import pytest
import trio

from agents import watch
from agents.watch import watching


async def test_a_change_wakes(tmp_path: Path) -> None:
    async with watching([tmp_path], poll_s=60) as wakeups:
        (tmp_path / "new").touch()
        with trio.fail_after(5):
            assert await wakeups.wait()


@pytest.mark.loud
async def test_a_missing_directory_keeps_no_other_from_being_watched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with watching([tmp_path / "missing", tmp_path], poll_s=60) as wakeups:
        (tmp_path / "new").touch()
        with trio.fail_after(5):
            assert await wakeups.wait()
    (record,) = caplog.records
    assert record.path == str(tmp_path / "missing")  # type: ignore[attr-defined]  # a key of the event


@pytest.mark.loud
async def test_without_inotify_it_is_polled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none_left() -> NoReturn:
        raise OSError(errno.EMFILE, "inotify instance limit reached")

    monkeypatch.setattr(watch, "Observer", none_left)
    with trio.fail_after(5):
        async with watching([tmp_path], poll_s=0.01) as wakeups:
            assert not await wakeups.wait()
    (record,) = caplog.records
    assert "max_user_instances" in record.hint  # type: ignore[attr-defined]  # a key of the event
