# SPDX-License-Identifier: Apache-2.0
"""Calls below: in place while quick, in threads once slow; reads that are whole."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from fuse_mounter.passthrough import storage
from fuse_mounter.passthrough.storage import Storage

MAIN = threading.main_thread()


async def test_a_quick_call_runs_in_place() -> None:
    assert await Storage().call(threading.current_thread) is MAIN


async def test_after_a_slow_call_the_next_ones_run_in_threads_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = Storage()

    def fails() -> None:
        time.sleep(storage.SLOW_S * 1.5)
        raise FileNotFoundError

    with pytest.raises(FileNotFoundError):
        await slow.call(fails)
    assert await slow.call(threading.current_thread) is not MAIN
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + storage.WARY_S + 1)
    assert await slow.call(threading.current_thread) is MAIN


@pytest.fixture
def descriptor(tmp_path: Path) -> int:
    (tmp_path / "file").write_bytes(bytes(range(256)) * 16)
    return os.open(tmp_path / "file", os.O_RDONLY)


@pytest.mark.parametrize(
    ("size", "offset", "length"), [(100, 0, 100), (100, 4090, 6), (1, 9999, 0)]
)
async def test_reading(descriptor: int, size: int, offset: int, length: int) -> None:
    whole = bytes(range(256)) * 16
    assert await Storage().read(descriptor, size, offset) == whole[offset : offset + size]
    assert len(await Storage().read(descriptor, size, offset)) == length
    os.close(descriptor)


async def test_what_is_only_partly_in_memory_is_completed(
    descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short answer would look like the end of the file."""
    real = os.preadv

    def partly(handle: int, buffers: list[bytearray], offset: int, flags: int) -> int:
        return real(handle, [memoryview(buffers[0])[:10]], offset, flags)

    monkeypatch.setattr(os, "preadv", partly)
    whole = bytes(range(256)) * 16
    assert await Storage().read(descriptor, 1000, 5) == whole[5:1005]
    os.close(descriptor)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EOPNOTSUPP])
async def test_what_is_not_in_memory_is_read_all_the_same(
    descriptor: int, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, "")

    monkeypatch.setattr(os, "preadv", refuse)
    assert await Storage().read(descriptor, 3, 1) == b"\1\2\3"
    os.close(descriptor)


async def test_an_error_of_the_disk_stays_an_error(
    descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(OSError, match="broken"):
        await Storage().read(descriptor, 3, 1)
    os.close(descriptor)
