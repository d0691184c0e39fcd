# SPDX-License-Identifier: Apache-2.0
"""Files that are rewritten in place, or replaced without taking the old one from its readers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agents.errors import Unavailable
from agents.mounts import LinuxMounts
from lxcfs_helper.files import ViewFiles, is_ours, source_name
from tests.unit.lxcfs_helper.entries import entry

ID = "abc123"


@pytest.fixture
def files(tmp_path: Path) -> ViewFiles:
    """As if it were mounted."""
    directory = tmp_path / "views"
    directory.mkdir()
    return pretended(directory)


def pretended(directory: Path) -> ViewFiles:
    files = ViewFiles(directory, LinuxMounts(), Path("/proc"))
    number = directory.stat().st_dev
    files.device = os.major(number), os.minor(number)
    return files


def test_same_length_is_written_in_place(files: ViewFiles) -> None:
    assert files.write(ID, "meminfo", b"one\n") is True
    path = files.path(ID, "meminfo")
    inode = path.stat().st_ino
    with path.open("rb") as reader:
        assert files.write(ID, "meminfo", b"two\n") is False
        assert reader.read() == b"two\n"
    assert path.stat().st_ino == inode
    assert files.read(ID, "meminfo") == b"two\n"


def test_another_length_makes_a_new_file_and_keeps_the_old_one(files: ViewFiles) -> None:
    files.write(ID, "meminfo", b"short\n")
    with files.path(ID, "meminfo").open("rb") as reader:
        assert files.write(ID, "meminfo", b"a longer one\n") is True
        assert reader.read() == b"short\n"
        assert os.fstat(reader.fileno()).st_nlink == 1, "not deleted"
    assert files.read(ID, "meminfo") == b"a longer one\n"
    files.discard_superseded(ID)
    assert os.listdir(files.directory / ID) == ["meminfo"]


def test_a_new_agent_goes_on_with_the_files_of_the_old_one(files: ViewFiles) -> None:
    files.write(ID, "stat", b"before\n")
    inode = files.path(ID, "stat").stat().st_ino
    files.close()
    successor = pretended(files.directory)
    assert successor.containers() == {ID}
    assert successor.read(ID, "stat") == b"before\n"
    assert successor.write(ID, "stat", b"after!\n") is False
    assert successor.path(ID, "stat").stat().st_ino == inode


def test_removal_closes_and_deletes(files: ViewFiles) -> None:
    files.write(ID, "stat", b"1\n")
    files.write(ID, "stat", b"2\n")
    files.write("other", "stat", b"3\n")
    files.remove(ID)
    files.remove("never-there")
    assert files.containers() == {"other"}
    assert files.read(ID, "stat") is None
    assert files.write(ID, "stat", b"again\n") is True


TREE = {"online": b"0-1\n", "cpu0/topology/core_id": b"0\n", "cpu1/topology/core_id": b"1\n"}


def below(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_a_directory_is_never_changed(files: ViewFiles) -> None:
    files.write(ID, "meminfo", b"1\n")
    assert files.write_tree(ID, "cpu", TREE) is True
    descriptor = os.open(files.tree(ID, "cpu")[0], os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert files.write_tree(ID, "cpu", {"online": b"0\n"}) is True
        assert sorted(os.listdir(descriptor)) == ["cpu0", "cpu1", "online"], "as it was shown"
        assert below(files.tree(ID, "cpu")[0]) == {"online": b"0\n"}
    finally:
        os.close(descriptor)
    files.discard_superseded(ID)
    assert sorted(os.listdir(files.directory / ID)) == ["cpu", "meminfo"]


def test_directories_that_are_alike_are_one(files: ViewFiles) -> None:
    assert files.write_tree(ID, "cpu", TREE) is True
    assert files.write_tree(ID, "cpu", dict(reversed(TREE.items()))) is False
    assert files.write_tree("other", "cpu", TREE) is True
    path, root = files.tree(ID, "cpu")
    assert files.tree("other", "cpu") == (path, root)
    assert below(path) == TREE
    assert files.directory / root.lstrip("/") == path
    assert files.containers() == {ID, "other"}
    assert files.write_tree(ID, "cpu", {"online": b"0\n"}) is True
    assert below(files.tree(ID, "cpu")[0]) == {"online": b"0\n"}
    files.discard_superseded(ID)
    files.remove(ID)
    assert below(files.tree("other", "cpu")[0]) == TREE
    assert files.write_tree(ID, "cpu", TREE) is True


def test_files_that_are_alike_are_one_file(files: ViewFiles) -> None:
    files.write_tree(ID, "node", {f"cpu{n}/size": b"32K\n" for n in range(64)})
    path, _ = files.tree(ID, "node")
    assert (path / "cpu9/size").stat().st_nlink == 64
    assert (path / "cpu9/size").stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize("odd", ["", "..", "../x", "a/b", ".hidden", "a b", "x" * 300])
def test_an_id_that_is_no_file_name_is_refused(files: ViewFiles, odd: str) -> None:
    with pytest.raises(Unavailable, match="no container id"):
        files.write(odd, "stat", b"1\n")


def test_our_mounts_are_known_by_their_directory() -> None:
    source = source_name(Path("/run/nodeshare/views"))
    assert is_ours(entry(source=source), source)
    assert not is_ours(entry(source=source_name(Path("/run/other/views"))), source)
    assert not is_ours(entry(source=source, fstype="ext4"), source)
