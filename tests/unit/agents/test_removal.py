# SPDX-License-Identifier: Apache-2.0
"""What is ours goes whole, what is others' stays, and no link and no mount leads elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.errors import AgentError
from agents.hostfs import PROC
from agents.removal import remove_if_empty, remove_whole


def test_files_directories_and_links_go_and_what_they_point_to_stays(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").write_text("mine")
    whole = tmp_path / "whole"
    (whole / "deep/er").mkdir(parents=True)
    (whole / "deep/file").touch()
    (whole / "link").symlink_to(precious)
    link = tmp_path / "link"
    link.symlink_to(precious)
    assert remove_whole(whole, PROC)
    assert remove_whole(link, PROC)
    assert (precious / "data").read_text() == "mine"
    assert not whole.exists()
    assert not link.is_symlink()
    assert not remove_whole(whole, PROC), "twice is fine"
    assert not remove_whole(precious / "data/below-a-file", PROC)


def test_nothing_goes_while_something_is_mounted_in_it(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    directory = tmp_path / "directory"
    (directory / "mounted").mkdir(parents=True)
    (directory / "file").touch()
    line = f"22 1 0:21 / {directory}/mounted rw - tmpfs tmpfs rw\n"
    (tmp_path / "proc/self/mountinfo").write_text(line)
    with pytest.raises(AgentError, match=r"mounted' is still mounted; see what uses it"):
        remove_whole(directory, tmp_path / "proc")
    assert (directory / "file").exists()


def test_only_an_empty_directory_of_everybody_goes(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    (tmp_path / "empty").mkdir()
    assert not remove_if_empty(tmp_path / "full")
    assert not remove_if_empty(tmp_path / "full/file")
    assert remove_if_empty(tmp_path / "empty")
    assert remove_if_empty(tmp_path / "empty")
