# SPDX-License-Identifier: Apache-2.0
"""Handlers about open files, where the kernel in front cannot be made to err at will."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from pyfuse3 import ROOT_INODE, FileHandleT, FileNameT, FlagT, FUSEError, ModeT

from fuse_mounter.passthrough.filesystem import Passthrough
from fuse_mounter.passthrough.tree import Handle, Settings


@pytest.mark.parametrize(("exclusive", "number"), [(0, errno.ESTALE), (os.O_EXCL, errno.EEXIST)])
async def test_a_file_that_appeared_meanwhile_is_not_opened_by_creating_it(
    tmp_path: Path, exclusive: int, number: int
) -> None:
    """The kernel checked no permission of it: it believed that there was none."""
    (tmp_path / "secret").write_text("for root alone")
    root = os.open(tmp_path, os.O_PATH)
    system = Passthrough(root, Settings(), lambda: None)
    caller: Any = SimpleNamespace(uid=os.getuid(), gid=os.getgid(), pid=0, umask=0)
    flags = FlagT(os.O_RDWR | os.O_CREAT | os.O_TRUNC | exclusive)
    with pytest.raises(FUSEError) as caught:
        await system.create(ROOT_INODE, FileNameT(b"secret"), ModeT(0o666), flags, caller)
    assert caught.value.errno == number
    assert (tmp_path / "secret").read_text() == "for root alone"
    os.close(root)


@pytest.mark.parametrize("distant", [False, True])
async def test_whether_closing_is_asked_for(tmp_path: Path, distant: bool) -> None:
    """Where it cannot fail the kernel is told never to ask again."""
    root = os.open(tmp_path, os.O_PATH)
    system = Passthrough(root, Settings(), lambda: None)
    system.storage.distant = distant
    if distant:
        await system.flush(FileHandleT(root))
    else:
        with pytest.raises(FUSEError) as caught:
            await system.flush(FileHandleT(root))
        assert caught.value.errno == errno.ENOSYS
    os.close(root)


@pytest.mark.parametrize("writeback", [False, True])
async def test_a_write_for_which_there_is_room_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writeback: bool
) -> None:
    """Pages that are written back need the error; whoever waits is told how much was taken."""
    root = os.open(tmp_path, os.O_PATH)
    system = Passthrough(root, Settings(writeback=writeback), lambda: None)
    system.open_files[9] = Handle(system.inodes.root)
    taken: list[bytes] = []

    def pwrite(_: int, data: bytes, offset: int) -> int:
        if offset >= 5:
            raise OSError(errno.ENOSPC, "full")
        taken.append(data[:3])
        return min(3, len(data))

    monkeypatch.setattr(os, "pwrite", pwrite)
    if writeback:
        with pytest.raises(FUSEError) as caught:
            await system.write(FileHandleT(9), 0, b"0123456789")
        assert caught.value.errno == errno.ENOSPC
    else:
        assert await system.write(FileHandleT(9), 0, b"0123456789") == 6
    assert taken == [b"012", b"345"]
    os.close(root)


@pytest.mark.loud
async def test_a_mistake_in_housekeeping_does_not_end_the_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    root = os.open(tmp_path, os.O_PATH)
    system = Passthrough(root, Settings(), lambda: None)
    swept = trio.Event()

    async def sweep(*, again: bool) -> None:
        if not again:
            raise ValueError("a bug")
        swept.set()

    monkeypatch.setattr(system, "sweep", sweep)
    system.too_many.set()
    nursery.start_soon(system.housekeeping, 0.01)
    with trio.fail_after(5):
        await swept.wait()
    os.close(root)
