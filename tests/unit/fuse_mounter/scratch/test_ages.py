# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from fuse_mounter.scratch.ages import Ages, last_use
from fuse_mounter.scratch.config import Clock, ScratchRule

DAY = 86400.0


def rule(**keys: object) -> ScratchRule:
    return ScratchRule.model_validate({"directory": "/srv/scratch", "older_than": "30d", **keys})


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("ada", "ada", True),
        ("ada", "ada/deep/file", True),
        ("ada", "adam", False),
        ("ada", "bob/ada", False),
        ("*/data", "ada/data/x", True),
        ("*/data", "ada/more/data", False),
        ("**/data", "ada/more/data/x", True),
        ("**/data", "data", True),
        ("ada/*.h5", "ada/x.h5", True),
        ("ada/*.h5", "ada/sub/x.h5", False),
        ("ada/**", "ada", False),
        ("ada/**", "ada/x", True),
        ("run?", "run1/x", True),
        ("run?", "run12", False),
        ("a[b]c", "a[b]c", True),
        ("a[b]c", "abc", False),
        ("*", "line\nbreak/x", True),
        ("*.dat", "caf\udce9.dat", True),
    ],
)
def test_which_paths_a_pattern_means(pattern: str, path: str, matches: bool) -> None:
    ages = Ages(rule(paths=[{"path": pattern, "older_than": "never"}]))
    assert (ages.of(path, 0) == math.inf) is matches


def test_the_first_path_rule_decides_then_the_largest_size_class_then_the_rule() -> None:
    ages = Ages(
        rule(
            sizes=[
                {"at_least": "1GiB", "older_than": "14d"},
                {"at_least": "10GiB", "older_than": "4d"},
            ],
            paths=[
                {"path": "ada/keep", "older_than": "never"},
                {"path": "ada", "older_than": "90d"},
            ],
        )
    )
    assert ages.of("ada/keep/x", 1 << 40) == math.inf
    assert ages.of("ada/x", 1 << 40) == 90 * DAY
    assert ages.of("bob/x", 20 << 30) == 4 * DAY
    assert ages.of("bob/x", 2 << 30) == 14 * DAY
    assert ages.of("bob/x", 10) == 30 * DAY
    assert ages.shortest == 4 * DAY


def test_a_folder_is_not_entered_when_nothing_in_it_can_go() -> None:
    ages = Ages(
        rule(paths=[{"path": "a/b", "older_than": "1d"}, {"path": "a", "older_than": "never"}])
    )
    assert not ages.keeps_all_below("a")
    assert not ages.keeps_all_below("b")
    ages = Ages(
        rule(paths=[{"path": "a", "older_than": "never"}, {"path": "a/b", "older_than": "1d"}])
    )
    assert ages.keeps_all_below("a")
    assert ages.keeps_all_below("a/b")
    assert not ages.keeps_all_below("b")


def test_the_clocks(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.touch()
    os.utime(file, (2000, 1000))
    status = file.stat()
    assert last_use(Clock.USED)(status) == 2000
    assert last_use(Clock.MODIFIED)(status) == 1000
    assert last_use(Clock.CHANGED)(status) == status.st_ctime > 1e9
