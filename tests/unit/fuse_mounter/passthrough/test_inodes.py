# SPDX-License-Identifier: Apache-2.0
"""The inode table: numbers, counts, descriptors."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pyfuse3 import ROOT_INODE, FUSEError

from fuse_mounter.passthrough.inodes import Inode, Inodes, key_of


def opened(path: Path) -> int:
    return os.open(path, os.O_PATH | os.O_NOFOLLOW)


@pytest.fixture
def inodes(tmp_path: Path) -> Iterator[Inodes]:
    table = Inodes(opened(tmp_path))
    yield table
    for inode in table:
        with suppress(OSError):
            os.close(inode.descriptor)


def add(inodes: Inodes, path: Path) -> Inode:
    path.touch()
    inode = inodes.add(opened(path), path.stat(), ROOT_INODE, path.name.encode())
    inodes.looked_up(inode, ROOT_INODE, path.name.encode())
    return inode


def test_the_root_has_the_number_that_fuse_gives_it(inodes: Inodes, tmp_path: Path) -> None:
    assert inodes[ROOT_INODE] is inodes.root
    assert inodes.number(key_of(tmp_path.stat())) == ROOT_INODE


def test_a_file_keeps_its_own_number(inodes: Inodes, tmp_path: Path) -> None:
    inode = add(inodes, tmp_path / "f")
    assert inode.number == (tmp_path / "f").stat().st_ino
    assert inodes[inode.number] is inode
    assert Path(inode.path).resolve() == tmp_path / "f"


def test_a_second_look_up_is_the_same_inode_and_closes_the_second_descriptor(
    inodes: Inodes, tmp_path: Path
) -> None:
    inode = add(inodes, tmp_path / "f")
    before = len(os.listdir("/proc/self/fd"))
    assert add(inodes, tmp_path / "f") is inode
    assert len(os.listdir("/proc/self/fd")) == before
    assert inode.lookups == 2


def test_it_is_forgotten_with_its_last_look_up(inodes: Inodes, tmp_path: Path) -> None:
    inode = add(inodes, tmp_path / "f")
    add(inodes, tmp_path / "f")
    assert inodes.forget(inode.number, 1) is None
    assert inodes[inode.number] is inode
    assert inodes.forget(inode.number, 1) == inode.descriptor
    with pytest.raises(FUSEError) as raised:
        inodes[inode.number]
    assert raised.value.errno == errno.ESTALE
    os.close(inode.descriptor)  # it is the caller's now: closing may take long


def test_the_root_and_the_unknown_cannot_be_forgotten(inodes: Inodes) -> None:
    assert inodes.forget(ROOT_INODE, 1 << 40) is None
    assert inodes.forget(123_456_789, 1) is None
    assert inodes[ROOT_INODE] is inodes.root


@pytest.mark.parametrize(
    "key",
    [
        pytest.param((99, 5), id="another device"),
        pytest.param((None, 1), id="the number that FUSE keeps for the root"),
        pytest.param((None, 1 << 63), id="a number with all bits"),
    ],
)
def test_what_could_clash_gets_a_stable_number_of_its_own(
    inodes: Inodes, tmp_path: Path, key: tuple[int | None, int]
) -> None:
    device = key[0] if key[0] is not None else tmp_path.stat().st_dev
    number = inodes.number((device, key[1]))
    assert number == inodes.number((device, key[1]))
    assert number >= 1 << 63
    assert number != inodes.number((device, key[1] + (1 << 40)))
