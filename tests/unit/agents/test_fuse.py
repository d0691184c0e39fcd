# SPDX-License-Identifier: Apache-2.0
"""The guard round FUSE handlers: whatever happens inside, only an errno comes out."""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from pathlib import Path

import pyfuse3
import pytest

from agents import fuse
from agents.errors import AgentError, FsError, Unavailable
from agents.fuse import Operations
from agents.mounts import LinuxMounts


class Faulty(Operations):
    """Raises what it is told to."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self.error = error

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        if self.error is not None:
            raise self.error
        return b"fine"

    async def forget(self, inode_list: Sequence[tuple[pyfuse3.InodeT, int]]) -> None:
        if self.error is not None:
            raise self.error


async def read(operations: Faulty) -> bytes:
    return await operations.read(pyfuse3.FileHandleT(1), 0, 10)


async def test_a_result_passes_through() -> None:
    assert await read(Faulty(None)) == b"fine"


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (pyfuse3.FUSEError(errno.EXDEV), errno.EXDEV),
        (FileNotFoundError(errno.ENOENT, "gone"), errno.ENOENT),
        (FsError(errno.EDQUOT, "quota"), errno.EDQUOT),
    ],
)
async def test_an_expected_error_becomes_its_errno(error: Exception, number: int) -> None:
    operations = Faulty(error)
    with pytest.raises(pyfuse3.FUSEError) as raised:
        await read(operations)
    assert raised.value.errno == number
    assert operations.unexpected == 0


@pytest.mark.loud
async def test_a_bug_becomes_eio_and_is_logged_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    operations = Faulty(ValueError("a bug"))
    with pytest.raises(pyfuse3.FUSEError) as raised:
        await read(operations)
    assert raised.value.errno == errno.EIO
    assert operations.unexpected == 1
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "read" in record.getMessage()
    assert record.exc_info is not None


@pytest.mark.loud
async def test_a_bug_that_comes_again_and_again_does_not_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    operations = Faulty(ValueError("a bug"))
    for error in (ValueError("a bug"), ValueError("a bug"), KeyError("another")):
        operations.error = error
        with pytest.raises(pyfuse3.FUSEError):
            await read(operations)
    assert operations.unexpected == 3
    assert len(caplog.records) == 2


@pytest.mark.loud
async def test_an_error_in_forget_goes_nowhere_but_to_the_log() -> None:
    """There is no reply to it: even a FUSEError would end the mount."""
    operations = Faulty(ValueError("a bug"))
    await operations.forget([(pyfuse3.InodeT(2), 1)])
    assert operations.unexpected == 1


async def test_a_handler_that_is_not_there_stays_not_there() -> None:
    with pytest.raises(pyfuse3.FUSEError) as raised:
        await Faulty(None).readlink(pyfuse3.ROOT_INODE, None)  # type: ignore[arg-type]  # not used
    assert raised.value.errno == errno.ENOSYS


async def test_a_process_serves_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse, "_served", True)
    with pytest.raises(AgentError, match="one FUSE connection"):
        await fuse.serve(Faulty(None), 99)


def test_without_a_device_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="modprobe fuse"):
        fuse.mount(LinuxMounts(), tmp_path / "fuse", tmp_path, source="x", subtype="x")
