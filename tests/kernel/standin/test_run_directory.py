# SPDX-License-Identifier: Apache-2.0
"""Removing a tree stops at every mount, whatever it shows."""

from __future__ import annotations

from pathlib import Path

from agents.mounts import LinuxMounts
from agents.standin.run_directory import remove_tree


def test_a_mount_in_the_way_is_not_entered(tmp_path: Path) -> None:
    """A bind of the same file system has the same device number: only the kernel tells it."""
    mounts = LinuxMounts()
    outside, tree = tmp_path / "outside", tmp_path / "tree"
    outside.mkdir()
    (outside / "file").write_text("kept")
    for name in ("bind", "tmpfs", "plain/deep"):
        (tree / name).mkdir(parents=True)
    (tree / "file").touch()
    mounts.bind(outside, tree / "bind")
    mounts.bind(outside / "file", tree / "file")
    mounts.mount("tmpfs", tree / "tmpfs", "tmpfs")
    (tree / "tmpfs/file").write_text("kept")
    try:
        kept = remove_tree(tree)
        assert set(kept) == {tree / "bind", tree / "file", tree / "tmpfs"}
        assert (outside / "file").read_text() == "kept"
        assert (tree / "tmpfs/file").read_text() == "kept"
        assert not (tree / "plain").exists(), "the rest is gone"
    finally:
        for name in ("bind", "file", "tmpfs"):
            mounts.unmount(tree / name)
    assert remove_tree(tree) == ()
    assert not tree.exists()
