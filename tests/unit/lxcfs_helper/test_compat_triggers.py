# SPDX-License-Identifier: Apache-2.0
"""Triggers of pressure files, on files that never fire (the kernel level has real ones)."""

from __future__ import annotations

import errno
import os
import select
from pathlib import Path

import pytest
import trio

from agents.errors import FsError
from lxcfs_helper.compat import triggers
from lxcfs_helper.compat.triggers import ALWAYS, Triggers

TEXT = b"some 150000 2000000\0"


class Waiter:
    def __init__(self, *, gone: bool = False) -> None:
        self.notified, self._gone = 0, gone

    def notify(self) -> None:
        self.notified += 1
        if self._gone:
            raise OSError(errno.ENOENT, "gone")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cpu.pressure"
    path.write_bytes(b"")
    return path


def number(error: pytest.ExceptionInfo[FsError]) -> int:
    return error.value.errno


async def test_a_trigger_is_written_as_it_came_and_let_go_of(file: Path) -> None:
    found, before = Triggers(), len(os.listdir("/proc/self/fd"))
    found.set(5, file, TEXT)
    assert file.read_bytes() == TEXT
    assert found.poll(5, None) == ALWAYS
    found.drop(5)
    found.drop(5)
    with trio.fail_after(5):
        while len(os.listdir("/proc/self/fd")) > before:
            await trio.sleep(0.01)


@pytest.mark.parametrize("text", [b"some 100 1000000", b"full 1 2000001", b"some 1 500000\n\0"])
async def test_windows_that_not_everybody_may_have(file: Path, text: bytes) -> None:
    found = Triggers()
    with pytest.raises(FsError) as error:
        found.set(5, file, text)
    assert number(error) == errno.EINVAL
    assert file.read_bytes() == b""


async def test_one_a_file_and_not_too_many(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "_MOST", 2)
    found = Triggers()
    try:
        for handle in (1, 2):
            found.set(handle, file, TEXT)
        with pytest.raises(FsError) as error:
            found.set(1, file, TEXT)
        assert number(error) == errno.EBUSY
        with pytest.raises(FsError) as error:
            found.set(3, file, TEXT)
        assert number(error) == errno.ENOSPC
    finally:
        found.drop(1)
        found.drop(2)


async def test_what_the_kernel_refuses_is_the_writers(tmp_path: Path) -> None:
    found = Triggers()
    with pytest.raises(FileNotFoundError):
        found.set(5, tmp_path / "gone", TEXT)
    assert found.poll(5, Waiter()) == ALWAYS


async def test_who_polls_is_woken_once_and_told(file: Path) -> None:
    found, waiter = Triggers(), Waiter()
    found.set(5, file, TEXT)
    try:
        assert found.poll(5, waiter) == ALWAYS
        (trigger,) = found._by_handle.values()
        triggers._happened(trigger)
        triggers._happened(trigger)
        assert waiter.notified == 1
        assert found.poll(5, waiter) == ALWAYS | select.POLLPRI
        assert found.poll(5, Waiter(gone=True)) == ALWAYS
        triggers._happened(trigger)  # and no error leaves it
    finally:
        found.drop(5)
