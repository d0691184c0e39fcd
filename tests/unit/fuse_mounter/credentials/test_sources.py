# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from agents.errors import Unavailable
from fuse_mounter.credentials.sources import DirectoryLogins, login_of
from fuse_mounter.credentials.tokens import Secret

NOW = 1000.0


def write(directory: Path, name: str, content: object) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (directory / name).write_text(text)


def test_a_directory_of_tokens(tmp_path: Path) -> None:
    write(tmp_path, "1000", "the-token\n")
    write(tmp_path, "ada.json", {"uid": 1001, "gid": 7, "refresh_token": "r", "name": "ada"})
    write(tmp_path, "bob.json", {"uid": 1002, "access_token": "a", "expires_at": 1500})
    found = DirectoryLogins(tmp_path).look(NOW)
    assert found.problems == ()
    assert sorted(found.logins) == [1000, 1001, 1002]
    assert found.logins[1000].access is not None
    assert found.logins[1000].access.text == Secret("the-token")
    assert (found.logins[1001].gid, found.logins[1001].refresh) == (7, Secret("r"))
    assert found.logins[1002].access is not None
    assert found.logins[1002].access.expires == 1500


def test_a_secret_volume(tmp_path: Path) -> None:
    """As the kubelet makes one: links through a directory that is replaced at once."""
    real = tmp_path / "..2026_11_21"
    real.mkdir()
    write(real, "1000", "the-token")
    (tmp_path / "..data").symlink_to(real.name)
    (tmp_path / "1000").symlink_to("..data/1000")
    assert list(DirectoryLogins(tmp_path).look(NOW).logins) == [1000]


def test_what_cannot_be_understood_costs_only_itself_and_is_not_quoted(tmp_path: Path) -> None:
    write(tmp_path, "1000", "good")
    write(tmp_path, "secret-1.json", '{"uid": 1, "access_token": "hunter2"')
    write(tmp_path, "secret-2.json", {"uid": "x", "access_token": "hunter2"})
    write(tmp_path, "secret-3.json", {"uid": 1, "access_token": "hunter2 hunter2"})
    write(tmp_path, "readme.txt", "hunter2")
    (tmp_path / "2000").write_bytes(b"\xff\xfe")
    write(tmp_path, "3000", "x" * ((1 << 20) + 1))
    (tmp_path / "4000").mkdir()
    os.mkfifo(tmp_path / "5000.unread")
    found = DirectoryLogins(tmp_path).look(NOW)
    assert list(found.logins) == [1000]
    assert len(found.problems) == 8
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    "said",
    [
        [],
        {},
        {"uid": 0, "access_token": "a"},
        {"uid": True, "access_token": "a"},
        {"uid": 1 << 32, "access_token": "a"},
        {"uid": 1},
        {"uid": 1, "access_token": ""},
        {"uid": 1, "access_token": 5},
        {"uid": 1, "access_token": "a", "gid": -1},
        {"uid": 1, "access_token": "a", "expires_at": "soon"},
        {"uid": 1, "access_token": "a\nb"},
    ],
)
def test_what_is_no_login(said: Any) -> None:
    with pytest.raises(ValueError, match=r"^(not|uid|gid|there|access_token|expires_at) "):
        login_of(said, NOW)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="look whether the Secret or directory is mounted"):
        DirectoryLogins(tmp_path / "none").look(NOW)
