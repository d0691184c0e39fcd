# SPDX-License-Identifier: Apache-2.0
"""Which directories can be a run's, and that removing one follows no link."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.errors import AgentError, ConfigError
from agents.standin.run_directory import (
    claim,
    environment,
    is_claimed,
    release,
    remove_tree,
    require_claimed,
    settle,
)


@pytest.mark.parametrize("path", ["/", "/run", "run/demo", "/run/../demo"])
def test_a_place_that_is_too_high_or_relative_is_refused(path: str) -> None:
    with pytest.raises(AgentError, match="two levels deep"):
        settle(Path(path))


def test_parents_are_resolved_and_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert settle(tmp_path / "link/run") == tmp_path.resolve() / "real/run"
    with pytest.raises(AgentError, match="symbolic link"):
        settle(tmp_path / "link")


def test_a_claim_is_recognised_and_repeated(tmp_path: Path) -> None:
    directory = tmp_path / "deep/run"
    assert is_claimed(directory), "nothing is there that could be another's"
    assert claim(directory) == directory.resolve()
    (directory / "file").touch()
    assert is_claimed(directory)
    assert claim(directory) == directory.resolve()
    require_claimed(directory)


def test_a_directory_of_somebody_else_is_not_claimed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AgentError, match="not empty and was not made by nodeshare"):
        claim(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_in_its_place_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(ConfigError, match="is not a directory"):
        claim(tmp_path / "run")


def test_the_mark_is_the_settled_path(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    marks = environment(tmp_path / "link/run")
    assert marks == {"NODESHARE_RUN_DIR": str(tmp_path.resolve() / "real/run")}


def test_release_removes_only_an_empty_run(tmp_path: Path) -> None:
    directory = claim(tmp_path / "run")
    (directory / "file").touch()
    assert not release(directory)
    assert (directory / "file").exists()
    (directory / "file").unlink()
    assert release(directory)
    assert not directory.exists()


def test_removing_follows_no_link(tmp_path: Path) -> None:
    outside, tree = tmp_path / "outside", tmp_path / "tree"
    outside.mkdir()
    (outside / "file").write_text("kept")
    (tree / "a/b/c").mkdir(parents=True)
    (tree / "a/file").touch()
    (tree / "a/link").symlink_to(outside)
    (tree / "a/b/dangling").symlink_to("nowhere")
    assert remove_tree(tree) == ()
    assert not tree.exists()
    assert (outside / "file").read_text() == "kept"


def test_a_link_in_place_of_the_tree_is_kept(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "tree").symlink_to(outside)
    assert remove_tree(tmp_path / "tree") == (tmp_path / "tree",)
    assert outside.is_dir()


def test_what_is_not_there_is_removed_already(tmp_path: Path) -> None:
    assert remove_tree(tmp_path / "none") == ()
    assert remove_tree(tmp_path / "none/deep") == ()
