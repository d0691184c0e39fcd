# SPDX-License-Identifier: Apache-2.0
"""Bad keys name themselves, what is wrong, and what to write."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from fuse_mounter.config import MounterConfig
from fuse_mounter.scratch.config import ScratchRule

README = Path(__file__).parents[4] / "fuse_mounter/scratch/README.md"
GOOD = {"directory": "/srv/scratch", "older_than": "30d"}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"older_than": "0s"}, "0 would remove everything at once"),
        ({"older_than": 30}, "older_than"),
        ({"older_than": "never"}, "older_than"),
        ({"directory": "/srv"}, "'/srv' is too close to the root of the node"),
        ({"directory": "srv/scratch"}, "srv/scratch"),
        ({"mount": "scratch"}, "name one of mount and directory"),
        ({"directory": None}, "name one of mount and directory"),
        ({"folder": "/abs"}, "'/abs' is not a folder in the directory"),
        ({"folder": "a/../../b"}, "is not a folder in the directory"),
        ({"paths": [{"path": "../x", "older_than": "3d"}]}, "is not a pattern below"),
        ({"keep_file": "a/b"}, "'a/b' is not the name of a file"),
        ({"notice_file": ".."}, "'..' is not the name of a file"),
        ({"notice_file": "x" * 250}, "more than 200 bytes"),
        ({"keep_free": {"target": "100%", "not_within": "7d"}}, "not a share below 100 %"),
        ({"keep_free": {"target": "10%"}}, "keep_free.not_within"),
        ({"rate": 0}, "rate"),
        ({"most_files": 0}, "most_files"),
        ({"clock": "atime"}, "clock"),
        ({"oldr_than": "3d"}, "oldr_than"),
    ],
)
def test_what_is_wrong_is_named(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as raised:
        ScratchRule.model_validate({**GOOD, **keys})
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([{"mount": "no", "older_than": "3d"}], "there is no mount 'no'"),
        ([GOOD, GOOD], "overlap"),
        ([GOOD, {**GOOD, "folder": "sub"}], "overlap"),
    ],
)
def test_rules_that_cannot_be(rules: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(words)):
        MounterConfig.model_validate({"scratch": rules})


def test_what_decides_changes_the_digest_and_nothing_else_does() -> None:
    rule = ScratchRule.model_validate(GOOD)
    for keys in ({"older_than": "31d"}, {"armed": True}, {"grace": 0}, {"users": False}):
        assert ScratchRule.model_validate({**GOOD, **keys}).digest != rule.digest
    for keys in ({"rate": 5}, {"every": "1h"}, {"most_files": 5}):
        assert ScratchRule.model_validate({**GOOD, **keys}).digest == rule.digest


def test_the_examples_of_the_page_are_valid() -> None:
    text = README.read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        MounterConfig.model_validate(yaml.safe_load(block)["fuse_mounter"])


def test_the_page_knows_every_key() -> None:
    described = set(re.findall(r"`(\w+)`", README.read_text()))
    assert set(ScratchRule.model_fields) <= described
