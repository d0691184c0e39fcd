# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from fuse_mounter.credentials import keytabs
from fuse_mounter.credentials.config import Keytab


def test_owner_and_mode_are_set_and_set_again(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("key")
    path.chmod(0o644)
    for _ in range(2):
        assert keytabs.keep(Keytab(path=path, owner=12001, group=7)) is None
        found = path.stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12001, 7, 0o400)
        os.chown(path, 0, 0)
        path.chmod(0o666)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("missing", "is missing; put it there: without it eosxd knows nobody"),
        ("link", "it must be a file, and no link"),
        ("directory", "is no file"),
        ("pipe", "is no file"),
        ("empty", "is empty"),
        ("two names", "has 2 names"),
    ],
)
def test_what_cannot_be_a_keytab(tmp_path: Path, kind: str, expected: str) -> None:
    path, other = tmp_path / "key", tmp_path / "other"
    other.write_text("key")
    other.chmod(0o644)
    match kind:
        case "link":
            path.symlink_to(other)
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "empty":
            path.touch()
        case "two names":
            path.hardlink_to(other)
    assert expected in str(keytabs.keep(Keytab(path=path)))
    assert stat.S_IMODE(other.stat().st_mode) == 0o644  # left alone


def test_one_is_copied_from_a_secret_volume(tmp_path: Path) -> None:
    secret, path = tmp_path / "secret", tmp_path / "key"
    real = tmp_path / "..data"
    real.write_text("first")
    secret.symlink_to(real.name)
    keytab = Keytab(path=path, source=secret, owner=12001)
    assert keytabs.keep(keytab) is None
    found = path.stat()
    assert (path.read_text(), found.st_uid, stat.S_IMODE(found.st_mode)) == ("first", 12001, 0o400)
    assert keytabs.keep(keytab) is None
    assert path.stat().st_mtime_ns == found.st_mtime_ns  # else the mount would be replaced
    real.write_text("second")
    assert keytabs.keep(keytab) is None
    assert path.read_text() == "second"
    real.write_text("")
    assert "is empty" in str(keytabs.keep(keytab))
    secret.unlink()
    assert "cannot be copied" in str(keytabs.keep(keytab))
    assert path.read_text() == "second"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["..data", "key"]
