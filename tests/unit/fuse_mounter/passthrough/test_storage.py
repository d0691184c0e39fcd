# SPDX-License-Identifier: Apache-2.0
"""Calls below: in place while quick, in threads once slow; reads that are whole."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from agents import mountinfo
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


async def test_what_is_no_local_file_system_never_runs_in_place(descriptor: int) -> None:
    distant = Storage()
    distant.distant = True
    assert await distant.call(threading.current_thread) is not MAIN
    seen = await distant.each(lambda _: threading.current_thread(), [1, 2])
    assert isinstance(seen, list)
    assert MAIN not in seen
    assert await distant.read(descriptor, 3, 1) == b"\1\2\3"
    os.close(descriptor)


async def test_a_series_is_looked_at_no_further_than_asked_for() -> None:
    looked: list[int] = []

    def look(number: int) -> int:
        looked.append(number)
        return number

    for number in await Storage().each(look, range(10)):
        if number == 3:
            break
    assert looked == [0, 1, 2, 3]


async def test_a_series_goes_on_in_threads_once_it_was_slow() -> None:
    storage_ = Storage()

    def slow(number: int) -> int:
        time.sleep(storage.SLOW_S * 1.2)
        return number

    assert list(await storage_.each(slow, [1, 2, 3])) == [1]
    seen = await storage_.each(lambda _: threading.current_thread(), [2, 3])
    assert MAIN not in seen


async def test_others_know_while_somebody_waits_for_a_thread(nursery: trio.Nursery) -> None:
    storage_, go_on = Storage(), threading.Event()
    nursery.start_soon(storage_.slow, go_on.wait)
    nursery.start_soon(storage_.slow, go_on.wait)
    await trio.testing.wait_all_tasks_blocked()
    assert storage_.busy
    go_on.set()
    with trio.fail_after(5):
        while storage_.busy:
            await trio.sleep(0.001)


@pytest.mark.parametrize(
    ("blocks", "links", "by_thread"), [(8, 0, False), (1 << 20, 1, False), (1 << 20, 0, True)]
)
async def test_the_last_descriptor_of_a_large_removed_file_is_closed_by_a_thread(
    monkeypatch: pytest.MonkeyPatch, blocks: int, links: int, by_thread: bool
) -> None:
    """Its blocks are freed meanwhile."""
    closed: list[bool] = []
    status = SimpleNamespace(st_blocks=blocks, st_nlink=links)
    monkeypatch.setattr(os, "fstat", lambda _: status)
    monkeypatch.setattr(
        os, "close", lambda _: closed.append(threading.current_thread() is not MAIN)
    )
    await Storage().close(99)
    monkeypatch.undo()
    assert closed == [by_thread]


TABLE = """\
1 0 8:1 / / rw - ext4 /dev/vda rw
2 1 0:40 / /srv/data rw - xfs /dev/vdb rw
3 2 0:41 / /srv/data/inside rw - nfs4 server:/ rw
4 1 0:42 / /srv/quick rw - tmpfs none rw
5 1 0:43 / /srv/strange rw - fuse.any any rw
"""


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("/srv/other", False),
        ("/srv/quick/deep", False),
        ("/srv/data", True),
        ("/srv/data/inside/deep", True),
        ("/srv/data/beside", False),
        ("/srv/strange", True),
        ("/srv", True),
    ],
)
def test_what_is_distant(source: str, expected: bool) -> None:
    assert storage.distant(mountinfo.parse(TABLE), source) is expected
