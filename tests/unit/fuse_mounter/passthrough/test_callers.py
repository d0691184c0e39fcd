# SPDX-License-Identifier: Apache-2.0
"""What a write takes away, and who is in a group."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest

from fuse_mounter.passthrough import callers

FILE_GROUP = 7


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Those the kernel tells of the caller, besides the one of the request."""
    found: set[int] = set()
    monkeypatch.setattr(pyfuse3, "get_sup_groups", lambda _: found)
    return found


def caller(uid: int = 1000, gid: int = 1000) -> Any:
    return SimpleNamespace(uid=uid, gid=gid, pid=1, umask=0)


def status(mode: int) -> os.stat_result:
    return os.stat_result((mode, 0, 0, 1, 0, FILE_GROUP, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("mode", "taken"),
    [
        (0o100755, 0),
        (0o104755, 0o4000),
        (0o102755, 0o2000),  # a program of a group
        (0o106755, 0o6000),
        (0o102644, 0o2000),  # no program, and the caller is a stranger
        (0o106644, 0o6000),
    ],
)
def test_what_a_write_takes_away(groups: set[int], mode: int, taken: int) -> None:
    assert callers.privileged_bits(status(mode), caller()) == taken
    assert callers.privileged_bits(status(mode), caller(uid=0)) == 0


@pytest.mark.parametrize(("mode", "taken"), [(0o102644, 0), (0o102755, 0o2000)])
def test_members_keep_the_bit_of_what_is_no_program(
    groups: set[int], mode: int, taken: int
) -> None:
    assert callers.privileged_bits(status(mode), caller(gid=FILE_GROUP)) == taken
    groups.add(FILE_GROUP)
    assert callers.privileged_bits(status(mode), caller()) == taken


@pytest.mark.parametrize("error", [FileNotFoundError(), RuntimeError("no groups"), ValueError()])
def test_in_doubt_nobody_is_in_a_group(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(_: int) -> None:
        raise error

    monkeypatch.setattr(pyfuse3, "get_sup_groups", fail)
    assert not callers.in_group(caller(), FILE_GROUP)
    assert callers.in_group(caller(gid=FILE_GROUP), FILE_GROUP)
